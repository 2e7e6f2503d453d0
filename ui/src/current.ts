// The function of the page that is open, whole: the list of all knows neither its handler nor its
// variables.
import { byId, put } from "./store.ts";
import type { Function } from "./wire.ts";

export const functionOf = byId<Function | null>(null);

/** The version that this tab has asked for and that does not serve yet. */
export const comingVersion = byId<number | null>(null);

/** Shows a function as a change has left it. */
export function show(one: Function): void {
  functionOf(one.id).value = one;
  put(one.id, one);
}
