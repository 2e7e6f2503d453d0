// The names of keys on the user's machine.

const isApple = /^(Mac|iP)/.test(globalThis.navigator?.platform ?? "");

export const CTRL_ENTER = isApple ? "⌘ ↵" : "Ctrl ↵";

/** Submits the form that handles it by Ctrl or ⌘ with Enter, from any of its fields. */
export function submits(event: KeyboardEvent): void {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  (event.currentTarget as HTMLFormElement).requestSubmit();
}
