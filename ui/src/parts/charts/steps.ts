// The progress of an action with several steps.
import { html } from "../../html.ts";

/** `at`: the current step; the number of steps if all are done; -1 before the first. */
export function Steps(
  { names, at, isBroken }: { names: readonly string[]; at: number; isBroken: boolean },
) {
  const how = (n: number) => n < at ? "done" : n > at ? "" : isBroken ? "broken" : "now";
  return html`<ol class="steps" aria-label="Progress">${
    names.map((name, n) =>
      html`<li class=${how(n)} key=${name} aria-current=${n === at ? "step" : null}>${name}<span
        class="hidden-visually"> ${how(n)}</span></li>`
    )
  }</ol>`;
}
