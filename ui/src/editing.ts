// Unsaved changes to the code and settings of functions. They are kept while the tab is open, even
// if the user visits other pages, and dropped when the user signs out.
import { computed, effect, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { needsKey } from "./api.ts";
import { isDrafted } from "./drafting.ts";
import { changesOf } from "./fields.ts";
import type { Edits } from "./pages/function/files.ts";
import type { Variable } from "./trying.ts";
import { type Function, FUNCTION_SETTINGS, type FunctionChanges } from "./wire.ts";

export type Named = Omit<
  Required<FunctionChanges>,
  "environment" | "min_instances" | "max_instances"
>;
export type Draft = Named & { variables: readonly Variable[] };

export interface Edited {
  /** The function when editing began. */
  before: Signal<Draft>;
  draft: Signal<Draft>;
  edits: Signal<Edits>;
  /** Its version at that time. */
  base: Signal<number>;
  /** The changes to request from the API; empty if there are none. */
  changes: ReadonlySignal<FunctionChanges>;
  isChanged: ReadonlySignal<boolean>;
}

const kept = signal<ReadonlyMap<string, Edited>>(new Map());

export function draftOf(fn: Function): Draft {
  const settings = FUNCTION_SETTINGS.map((name) => [name, fn[name] ?? null]);
  const { environment, min_instances: _min, max_instances: _max, ...named } = Object.fromEntries(
    settings,
  ) as Required<FunctionChanges>;
  return { ...named, variables: Object.entries(environment) };
}

/** The changes to request from the API, without rows that have no name. */
function asked(before: Draft, now: Draft): FunctionChanges {
  const shape = ({ variables, ...rest }: Draft) => ({
    ...rest,
    environment: Object.fromEntries(variables.filter(([name]) => name !== "")),
  });
  return changesOf(shape(before), shape(now)) as FunctionChanges;
}

/** The unsaved changes to a function. */
export function editingOf(fn: Function): Edited {
  const known = kept.peek().get(fn.id);
  if (known) return known;
  const before = signal(draftOf(fn)), draft = signal(before.peek());
  const edits = signal<Edits>(new Map());
  const changes = computed(() => asked(before.value, draft.value));
  const isChanged = computed(() => Object.keys(changes.value).length > 0 || edits.value.size > 0);
  const made: Edited = {
    before,
    draft,
    edits,
    changes,
    isChanged,
    base: signal(fn.current_version),
  };
  kept.value = new Map([...kept.peek(), [fn.id, made]]);
  return made;
}

/** Whether the function has unsaved changes. */
export function isUnsaved(id: string): boolean {
  return kept.value.get(id)?.isChanged.value ?? false;
}

/** Drops the state of a function without changes. */
export function close(id: string): void {
  if (!kept.peek().get(id)?.isChanged.peek()) forget(id);
}

/** Drops the changes to a deleted function. */
export function forget(id: string): void {
  kept.value = new Map([...kept.peek()].filter(([key]) => key !== id));
}

/** Makes the browser ask for confirmation if leaving the page would lose changes. */
export function askBeforeLeaving(): void {
  addEventListener("beforeunload", (event) => {
    const isChanged = [...kept.peek().values()].some((edited) => edited.isChanged.peek());
    if (isChanged || isDrafted.peek()) event.preventDefault();
  });
}

effect(() => {
  if (needsKey.value) kept.value = new Map();
});
