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

/** A function that could not be deployed, or serve with its new version, as it is now. */
export class FunctionFailed extends Error {
  constructor(of: Pick<Function, "name" | "state" | "error_message">) {
    super(of.error_message ?? `${of.name} is in state ${of.state}.`);
  }
}

/** Tells in a toast what failed, unless the page of the function shows it. */
export function tell(id: string, error: unknown): void {
  const isShown = functionOf(id).peek()?.error_message != null;
  closed(id).value = null;
  if (!(error instanceof FunctionFailed && isShown)) toastError(error);
}

/** The error of a function that the reader has closed; it is shown again when it comes again. */
export const closed = byId<string | null>(null);

function learn(one: Function): void {
  const known = failures(one.id), failed = one.failed_version ?? null;
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
