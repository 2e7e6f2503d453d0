// Why a page has nothing to show: the key lacks permission, or a request failed.
import type { Refused } from "../../api.ts";
import { html } from "../../html.ts";
import { signOut, who } from "../../store.ts";
import { Notice } from "./notice.ts";

/** Shows a refusal or a failure in the server's own words. `onRetry`: refetches, if that makes
 * sense.
 */
export function Problem({ of, onRetry }: { of: Refused; onRetry: () => void }) {
  if (of.status !== 403) return html`<${Notice} of=${of} onRetry=${onRetry} />`;
  const me = who.value;
  return html`
    <section class="card barred" role="alert">
      <h2>Your key does not allow this</h2>
      <p>${of.message}</p>
      ${of.hint && html`<p class="muted">${of.hint}</p>`}
      ${me &&
        html`<p class="muted small">${`You are signed in to the tenant ${me.tenant_id} with the scope ${me.scope}.`}</p>`}
      <button class="button" type="button" onClick=${signOut}>Sign in with another key</button>
    </section>
  `;
}
