// Untrusted text: its lines are kept, and control sequences have no effect.
import { html } from "../../html.ts";
import { isBinary } from "../../hex.ts";
import { Hex } from "./hex.ts";
import { Output } from "../invocation/output.ts";

/** `label`: its description. Escape sequences are shown as text instead of colours. */
export function Printable({ text, label }: { text: string; label: string }) {
  if (text === "") return html`<span class="muted">an empty text</span>`;
  if (isBinary(text)) return html`<${Hex} of=${new TextEncoder().encode(text)} label=${label} />`;
  return html`<${Output} text=${text.replaceAll("\u001b", "␛")} label=${label} />`;
}
