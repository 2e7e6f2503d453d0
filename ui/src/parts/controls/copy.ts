// A command or an id with a copy button.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { html } from "../../html.ts";

type Timer = ReturnType<typeof setTimeout>;
const SAID_MS = 1_500;

/** `label`: a description for screen readers; `shown`: the text with its secrets masked. */
export function Copy({ text, label = "command", shown = text }: {
  text: string;
  label?: string;
  shown?: string;
}) {
  const isCopied = useSignal(false);
  const isShown = useSignal(false);
  const code = useRef<HTMLElement>(null);
  const timer = useRef<Timer | undefined>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      isCopied.value = true;
      timer.current = setTimeout(() => {
        isCopied.value = false;
      }, SAID_MS);
    } catch { // without HTTPS, a page may not write to the clipboard: select the text instead
      isShown.value = true;
      requestAnimationFrame(() => code.current && getSelection()?.selectAllChildren(code.current));
    }
  }
  return html`<span class="copy"><code ref=${code}>${
    isShown.value ? text : shown
  }</code><button class="button" type="button"
    aria-label=${`Copy the ${label}`} onClick=${copy}>${isCopied.value ? "Copied" : "Copy"}</button>
    <span class="hidden-visually" role="status">${isCopied.value ? "Copied" : ""}</span></span>`;
}
