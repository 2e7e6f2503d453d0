// The draft of a new function. The draft is kept while the tab is open, even if the user visits
// other pages. It is dropped once the function exists, or when the user signs out.
import { computed, effect, signal } from "@preact/signals";
import { needsKey } from "./api.ts";
import type { Draft } from "./making.ts";
import { templateOf, TEMPLATES } from "./templates.ts";

/** The initial draft. */
export function emptyDraft(): Draft {
  const [{ code, payload }] = TEMPLATES.python;
  return { name: "", language: "python", code, files: [], payload };
}

export const drafted = signal<Draft>(emptyDraft());

/** Whether the draft has more than the choice of a template. */
export const isDrafted = computed(() => {
  const { name, files, ...rest } = drafted.value;
  return name !== "" || files.length > 0 || templateOf(rest) === undefined;
});

export function forgetDraft(): void {
  drafted.value = emptyDraft();
}

effect(() => {
  if (needsKey.value) forgetDraft();
});
