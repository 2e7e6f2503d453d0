// What keys are called on the reader's machine.

const isApple = /^(Mac|iP)/.test(globalThis.navigator?.platform ?? "");

export const CTRL_ENTER = isApple ? "⌘ ↵" : "Ctrl ↵";
