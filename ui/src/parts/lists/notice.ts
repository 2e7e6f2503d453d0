// An error in the server's own words, with its hint.
import { html } from "../../html.ts";
import type { Refused } from "../../api.ts";

/** The hint without the API request at its end: on a page there is a button instead. */
function hintOf({ hint, details }: Refused): string | null {
  const call = details?.see && `: ${details.see.text}`;
  return call && hint?.endsWith(call) ? hint.slice(0, -call.length) : hint;
}

/** `of`: the error, and the output of a program whose start failed. `onRetry`: the action of a
 * retry button, if a retry makes sense. `onClose`: the action of a button that dismisses the
 * notice.
 */
export function Notice({ of, onRetry, onClose }: {
  of: (Error | Refused) & { wrote?: string | undefined };
  onRetry?: () => void;
  onClose?: () => void;
}) {
  const hint = "hint" in of ? hintOf(of) : null;
  return html`<div class=${`notice ${onClose ? "closes" : ""}`} role="alert"><p>${of.message}</p>
    ${
    onClose &&
    html`<button class="button icon" type="button" aria-label="Close" onClick=${onClose}>✕</button>`
  }
    ${
    of.wrote && html`
      <p class="muted small">It wrote last:</p>
      <pre class="mono small">${of.wrote}</pre>
    `
  }
    ${hint && html`<p class="muted">${hint}</p>`}
    ${
    onRetry && html`<button class="button" type="button" onClick=${onRetry}>Try again</button>`
  }</div>`;
}
