// A choice of one or none, as buttons in a row.
import type { Signal } from "@preact/signals";
import { html } from "../../html.ts";

/** `chosen`: one of the options; empty: `usual`, or none. Pressing the chosen option again clears
 * the choice.
 */
export function Choice(
  { label, options, chosen, usual = "" }: {
    label: string;
    options: readonly string[];
    chosen: Signal<string>;
    usual?: string;
  },
) {
  return html`<div class="chips" role="group" aria-label=${label}>${
    options.map((option) =>
      html`
        <button class="chip" type="button" key=${option} aria-pressed=${(chosen.value || usual) ===
          option}
          onClick=${() => {
            chosen.value = chosen.value === option || option === usual ? "" : option;
          }}>${option}</button>
      `
    )
  }</div>`;
}
