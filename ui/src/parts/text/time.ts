// A time, relative to now; its title is the exact time.
import { html } from "../../html.ts";
import { now } from "../../store.ts";
import { ago, ahead, exact } from "./format.ts";

/** `at`: Unix seconds; null if it never happened. */
export function Ago({ at }: { at: number | null | undefined }) {
  if (at == null) return html`<span class="muted">never</span>`;
  const iso = new Date(at * 1000).toISOString();
  return html`<time dateTime=${iso} title=${exact(at)}>${ago(at, now.value)}</time>`;
}

/** `at`: Unix seconds; null or undefined if it will not happen. */
export function Ahead({ at }: { at: number | null | undefined }) {
  if (at == null) return html`<span class="muted">never</span>`;
  const iso = new Date(at * 1000).toISOString();
  return html`<time dateTime=${iso} title=${exact(at)}>${ahead(at, now.value)}</time>`;
}
