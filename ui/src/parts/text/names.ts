// Names in one line, such as those of variables.
import { html } from "../../html.ts";
import { visible } from "./ansi.ts";

/** `none`: the text if there are none. */
export function Names({ of, none = "none" }: { of: readonly string[]; none?: string }) {
  if (of.length === 0) return html`<span class="muted">${none}</span>`;
  return html`<ul class="names">${
    of.map((name) => html`<li key=${name}><code>${visible(name)}</code></li>`)
  }</ul>`;
}
