// Short messages about completed actions, with an undo button if the API allows it.
import { effect, signal } from "@preact/signals";
import { html } from "../../html.ts";
import { path } from "../../router.ts";
import { Settling } from "./settling.ts";

export interface Toast {
  id: number;
  text: string;
  isBad: boolean;
  /** The undo action, such as a rollback to the previous version. */
  undo: (() => void | Promise<unknown>) | null;
  /** Milliseconds since 1970. */
  since: number;
}

const STAYS_MS = 4_000;
const STAYS_BAD_MS = 8_000;
const LOOKED_AT_MS = 1_000; // extra time while the pointer or the focus is on any message
const TURNED_MS = 300; // a message that is this new stays when another page opens
const MOST = 4;

export const toasts = signal<Toast[]>([]);
let last = 0;

/** Shows a message for some seconds; replaces one with the same text. `undo`: the action of an undo button.
 */
export function toast(text: string, more: { isBad?: boolean; undo?: Toast["undo"] } = {}): void {
  const entry = { id: ++last, text, isBad: more.isBad ?? false, undo: more.undo ?? null };
  const others = toasts.peek().filter((other) => other.text !== text);
  toasts.value = [...others, { ...entry, since: Date.now() }].slice(-MOST);
  setTimeout(function end() {
    if (isPointedAt()) setTimeout(end, LOOKED_AT_MS);
    else dismiss(entry.id);
  }, entry.isBad ? STAYS_BAD_MS : STAYS_MS);
}

const isPointedAt = (): boolean =>
  document.querySelector?.(".toasts:hover, .toasts:focus-within") != null;

effect(() => {
  path.value; // older messages would be in the way on another page
  toasts.value = toasts.peek().filter((entry) => Date.now() - entry.since < TURNED_MS);
});

/** Shows an error in its own words. */
export function toastError(error: unknown): void {
  toast(error instanceof Error ? error.message : String(error), { isBad: true });
}

export function dismiss(id: number): void {
  toasts.value = toasts.peek().filter((entry) => entry.id !== id);
}

// shared by all toasts, since the result of an undo appears under the pointer
const undoing = new Settling();

/** Undoes a toast's action, unless another undo is running or has just ended. */
export async function takeBack(entry: Toast): Promise<void> {
  await undoing.run(async () => {
    dismiss(entry.id);
    try {
      await entry.undo?.();
    } catch (error) {
      toastError(error);
    }
  });
}

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">${
    toasts.value.map((entry) =>
      html`<div class=${`toast ${
        entry.isBad ? "bad" : ""
      }`} key=${entry.id}><span>${entry.text}</span>
        ${
        entry.undo &&
        html`<button class="button" type="button" aria-disabled=${undoing.isBusy.value} onClick=${() =>
          takeBack(entry)}>Undo</button>`
      }
        <button class="button icon" type="button" aria-label="Dismiss" onClick=${() =>
        dismiss(entry.id)}>✕</button></div>`
    )
  }</div>`;
}
