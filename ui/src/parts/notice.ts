// What went wrong, in the server's own words, and what it says to do.
import { html } from "../html.ts";
import type { Refused } from "../api.ts";

// A call of the API at the end of a hint; a reader of a page has a button for it.
const CALL = /: [A-Z]+ \/api\/\S+$/;

/** `of`: the error; `onRetry`: what its button does, where another try makes sense. */
export function Notice({ of, onRetry }: { of: Error | Refused; onRetry?: () => void }) {
  const hint = "hint" in of ? of.hint?.replace(CALL, "") : null;
  return html`<div class="notice" role="alert"><p>${of.message}</p>
    ${hint && html`<p class="muted">${hint}</p>`}
    ${
    onRetry && html`<button class="button" type="button" onClick=${onRetry}>Try again</button>`
  }</div>`;
}
