// A text that somebody sent: it stays in its own lines, and nothing in it is obeyed.
import { html } from "../html.ts";
import { Output } from "./output.ts";

/** `label`: what it is. Escape sequences are not colours here, they are shown as they are. */
export function Printable({ text, label }: { text: string; label: string }) {
  if (text === "") return html`<span class="muted">an empty text</span>`;
  return html`<${Output} text=${text.replaceAll("\u001b", "␛")} label=${label} />`;
}
