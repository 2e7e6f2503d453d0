// The search field of a list; / focuses it.
import type { Signal } from "@preact/signals";
import { html } from "../../html.ts";

export function Search({ text, label }: { text: Signal<string>; label: string }) {
  return html`<label class="search"><span class="hidden-visually">${label}</span>
    <svg width="14" height="14" viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.8"
      aria-hidden="true"><path d="M7 2a5 5 0 1 0 .01 0M11 11l3.5 3.5" /></svg>
    <input type="search" placeholder=${label} value=${text} autocomplete="off" spellcheck=${false}
      onInput=${(event: InputEvent) => {
    text.value = (event.target as HTMLInputElement).value;
  }} onKeyDown=${(event: KeyboardEvent) => {
    if (event.key === "Escape") text.value = "";
  }} /><kbd class="wide" aria-hidden="true">/</kbd></label>`;
}

/** Whether each word is in any of the texts, ignoring case. */
export function fits(query: string, ...texts: (string | null | undefined)[]): boolean {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const all = texts.map((text) => text?.toLowerCase() ?? "");
  return words.every((word) => all.some((text) => text.includes(word)));
}
