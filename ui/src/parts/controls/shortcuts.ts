// The list of keyboard shortcuts: ? opens it, except in text fields.
import { signal } from "@preact/signals";
import { html } from "../../html.ts";
import { Dialog } from "./dialog.ts";
import { CTRL_ENTER } from "../text/keys.ts";

const KEYS: [keys: string[], does: string][] = [
  [["?"], "shows this"],
  [["/"], "goes to the search"],
  [["↑", "↓", "j", "k"], "go through a list"],
  [["Page ↑", "Page ↓"], "ten rows at a time"],
  [["Home", "End"], "to its first and its last row"],
  [["Enter"], "opens"],
  [["←", "→"], "read a chart, moment by moment"],
  [[CTRL_ENTER], "creates, saves, calls"],
  [["Esc"], "closes, empties the search, leaves the editor with Tab"],
];

export const isHelpOpen = signal(false);

export function Shortcuts() {
  if (!isHelpOpen.value) return null;
  return html`
    <${Dialog} title="Keyboard" onClose=${() => {
      isHelpOpen.value = false;
    }}>
      <dl class="shortcuts">${KEYS.map(([keys, does]) =>
        html`
          <div key=${does}>
            <dt>${keys.map((key) => html`<kbd key=${key}>${key}</kbd>`)}</dt>
            <dd>${does}</dd>
          </div>
        `
      )}</dl>
      </${Dialog}>
  `;
}
