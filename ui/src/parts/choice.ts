// A choice of one or none, as buttons in a row.
import type { Signal } from "@preact/signals";
import { html } from "../html.ts";

/** `chosen`: one of the options, or empty. Pressing the chosen one again chooses none. */
export function Choice(
  { label, options, chosen }: { label: string; options: readonly string[]; chosen: Signal<string> },
) {
  return html`<div class="chips" role="group" aria-label=${label}>${
    options.map((one) =>
      html`
        <button class="chip" type="button" key=${one} aria-pressed=${chosen.value === one}
          onClick=${() => {
            chosen.value = chosen.value === one ? "" : one;
          }}>${one}</button>
      `
    )
  }</div>`;
}
