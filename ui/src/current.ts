// The function of the page that is open, whole: the list of all knows neither its handler nor its
// variables.
import { toastError } from "./parts/controls/toast.ts";
import { byId, put } from "./store.ts";
import type { Function, FunctionUrl } from "./wire.ts";

export const functionOf = byId<Function | null>(null);

/** Its URL; null: it has none, or it is not known yet. */
export const functionUrl = byId<FunctionUrl | null>(null);

/** The version that this tab has asked for and that does not serve yet. */
export const comingVersion = byId<number | null>(null);

/** Why versions could not start, by their numbers, as far as this tab has heard: the API tells it of
 * the last one alone, and no more once the function is deployed again.
 */
export const failures = byId<ReadonlyMap<number, string>>(new Map());

/** The version of which the error of a function says that it could not start. */
export function failedVersion({ error_message: error }: Function): number | null {
  const found = /^version (\d+) cannot serve: /.exec(error ?? "");
  return found ? Number(found[1]) : null;
}

/** Tells in a toast what failed, unless it is the error that the page of the function shows. */
export function tell(id: string, error: unknown): void {
  const shown = functionOf(id).peek()?.error_message;
  closed(id).value = null;
  if (!(error instanceof Error && error.message === shown)) toastError(error);
}

/** The error of a function that the reader has closed; it is shown again when it comes again. */
export const closed = byId<string | null>(null);

function learn(one: Function): void {
  const known = failures(one.id), failed = failedVersion(one);
  const next = new Map(known.peek());
  const isOver = one.state === "active" && next.delete(one.current_version);
  if (failed !== null && one.error_message) next.set(failed, one.error_message);
  if (failed !== null || isOver) known.value = next;
}

/** Shows a function as a change has left it. */
export function show(one: Function): void {
  learn(one);
  functionOf(one.id).value = one;
  put(one.id, one);
}
