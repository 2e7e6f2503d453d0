// What went wrong, in the server's own words, and what it says to do.
import { html } from "../../html.ts";
import type { Refused } from "../../api.ts";

// A call of the API at the end of a hint; a reader of a page has a button for it.
const CALL = /: [A-Z]+ \/api\/\S+$/;

// What a program wrote before its start failed comes behind this in a message.
const WROTE = "\nIt wrote last:\n";

/** `of`: the error; `onRetry`: what its button does, where another try makes sense; `onClose`: where
 * it can be put away.
 */
export function Notice({ of, onRetry, onClose }: {
  of: Error | Refused;
  onRetry?: () => void;
  onClose?: () => void;
}) {
  const hint = "hint" in of ? of.hint?.replace(CALL, "") : null;
  const [said, wrote] = of.message.split(WROTE, 2);
  return html`<div class=${`notice ${onClose ? "closes" : ""}`} role="alert"><p>${said}</p>
    ${
    onClose &&
    html`<button class="button icon" type="button" aria-label="Close" onClick=${onClose}>✕</button>`
  }
    ${
    wrote && html`
      <p class="muted small">It wrote last:</p>
      <pre class="mono small">${wrote}</pre>
    `
  }
    ${hint && html`<p class="muted">${hint}</p>`}
    ${
    onRetry && html`<button class="button" type="button" onClick=${onRetry}>Try again</button>`
  }</div>`;
}
