// What went wrong, in the server's own words, and what it says to do.
import { html } from "../../html.ts";
import type { Refused } from "../../api.ts";

// What a program wrote before its start failed comes behind this in a message.
const WROTE = "\nIt wrote last:\n";

/** The hint without the request of the API that it ends with: a reader of a page has a button. */
function hintOf({ hint, details }: Refused): string | null {
  const call = details?.see && `: ${details.see.text}`;
  return call && hint?.endsWith(call) ? hint.slice(0, -call.length) : hint;
}

/** `of`: the error; `onRetry`: what its button does, where another try makes sense; `onClose`: where
 * it can be put away.
 */
export function Notice({ of, onRetry, onClose }: {
  of: Error | Refused;
  onRetry?: () => void;
  onClose?: () => void;
}) {
  const hint = "hint" in of ? hintOf(of) : null;
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
