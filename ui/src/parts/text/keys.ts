// The names of keys on the user's machine.

const isApple = /^(Mac|iP)/.test(globalThis.navigator?.platform ?? "");

export const CTRL_ENTER = isApple ? "⌘ ↵" : "Ctrl ↵";

/** Submits the form if the event, from any of its fields, is Ctrl or ⌘ with Enter. */
export function submits(event: KeyboardEvent): void {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  (event.currentTarget as HTMLFormElement).requestSubmit();
}
