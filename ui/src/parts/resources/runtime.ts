// The owner of a runtime.
import { html } from "../../html.ts";
import type { Runtime } from "../../wire.ts";

export function Belongs({ of }: { of: Runtime }) {
  if (of.built_in) return html`<span class="muted">the server</span>`;
  return of.shared ? html`<span>all tenants</span>` : html`<span>you</span>`;
}
