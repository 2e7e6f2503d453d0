// A new function as it is being written. It is kept while the tab is open, so that a look at another page
// loses nothing, until the function is there; and goes with the key.
import { computed, effect, signal } from "@preact/signals";
import { needsKey } from "./api.ts";
import type { Draft } from "./making.ts";
import { templateOf, TEMPLATES } from "./templates.ts";

/** What the page begins with. */
export function emptyDraft(): Draft {
  const [{ code, payload }] = TEMPLATES.python;
  return { name: "", language: "python", code, files: [], payload };
}

export const drafted = signal<Draft>(emptyDraft());

/** Whether there is something in it that would be missed: more than a choice of template. */
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
