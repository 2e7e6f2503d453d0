// A text that somebody sent: it stays in its own lines, and nothing in it is obeyed.
import { html } from "../../html.ts";
import { isBinary } from "../../hex.ts";
import { Hex } from "./hex.ts";
import { Output } from "../invocation/output.ts";

/** `label`: what it is. Escape sequences are not colours here, they are shown as they are. */
export function Printable({ text, label }: { text: string; label: string }) {
  if (text === "") return html`<span class="muted">an empty text</span>`;
  if (isBinary(text)) return html`<${Hex} of=${new TextEncoder().encode(text)} label=${label} />`;
  return html`<${Output} text=${text.replaceAll("\u001b", "␛")} label=${label} />`;
}
