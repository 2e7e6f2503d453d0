// The function of the open page with all its fields: the list of functions has neither handlers nor
// variables.
import { toastError } from "./parts/controls/toast.ts";
import { visible } from "./parts/text/ansi.ts";
import { byId, put } from "./store.ts";
import type { Function, FunctionUrl } from "./wire.ts";

export const functionOf = byId<Function | null>(null);

/** The function's URL; null if it has none, or is not loaded yet. */
export const functionUrl = byId<FunctionUrl | null>(null);

/** The version that this tab has requested and that is not current yet. */
export const comingVersion = byId<number | null>(null);

/** The errors of versions that could not start, by version number, as far as this tab has seen
 * them: the API has only the last one, and only until the function is deployed again.
 */
export const failures = byId<ReadonlyMap<number, string>>(new Map());

/** The error of a function that could not be deployed, or whose new version could not become
 * current.
 */
export class FunctionFailed extends Error {
  readonly wrote: string | undefined;
  constructor(of: Function) {
    super(visible(of.error_sentence ?? of.error_message ?? `${of.name} is in state ${of.state}.`));
    this.wrote = of.error_output && visible(of.error_output);
  }
}

/** Shows an error as a toast, unless the function's page shows it. */
export function tell(id: string, error: unknown): void {
  const isShown = functionOf(id).peek()?.error_message != null;
  closed(id).value = null;
  if (!(error instanceof FunctionFailed && isShown)) toastError(error);
}

/** The function error that the user has dismissed. If it recurs, it is shown again. */
export const closed = byId<string | null>(null);

function learn(fn: Function): void {
  const known = failures(fn.id), failed = fn.failed_version ?? null;
  const next = new Map(known.peek());
  const isOver = fn.state === "active" && next.delete(fn.current_version);
  if (failed !== null && fn.error_message) next.set(failed, fn.error_message);
  if (failed !== null || isOver) known.value = next;
}

/** Shows a function as it is after a change. */
export function show(fn: Function): void {
  learn(fn);
  functionOf(fn.id).value = fn;
  put(fn.id, fn);
}
