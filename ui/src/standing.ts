// A function's condition besides its state: whether it fails, its last failure, and whether it can be
// invoked.
import { isHttpError } from "./parts/invocation/status.ts";
import type { Mode } from "./trying.ts";
import type { Function, FunctionStats, FunctionSummary, InvocationSummary } from "./wire.ts";

type Counted = Pick<FunctionSummary, "state" | "invocation_count" | "error_count">;

/** Whether every invocation of an active function failed: in the last hour or, without invocations in that
 * hour, ever.
 */
export function isFailing(
  one: Counted,
  lastHour: Pick<FunctionStats, "calls" | "errors"> | null,
): boolean {
  const [calls, errors] = lastHour && lastHour.calls > 0
    ? [lastHour.calls, lastHour.errors]
    : [one.invocation_count, one.error_count];
  return one.state === "active" && calls > 0 && errors >= calls;
}

const FAILED = new Set(["failed", "timeout", "oom", "cancelled", "error", "interrupted"]);

type Ended = Pick<InvocationSummary, "status" | "error_message" | "http_status">;

/** Whether an invocation failed, or its handler's HTTP response is an error. */
export const isError = (one: Ended): boolean => FAILED.has(one.status) || isHttpError(one);

/** Why it counts as an error; null if it does not. */
export const reasonOf = (one: Ended): string | null =>
  one.error_message ??
    (isHttpError(one) ? `the handler responded with HTTP ${one.http_status}` : null);

/** The outcome of an invocation in a line: why it counts as an error, or its status. For several attempts
 * also the number of that attempt or, while queued, of the next one.
 */
export function cameTo(one: Ended & Pick<InvocationSummary, "attempt">): string {
  const reason = reasonOf(one);
  if (one.attempt < 2) return reason ?? one.status;
  const number = `attempt ${one.attempt}`;
  return `${isError(one) ? number : `${one.status}, ${number}`}${reason ? `: ${reason}` : ""}`;
}

/** Why a function cannot be invoked now; null: it can. A paused function accepts asynchronous invocations,
 * which run once it is resumed.
 */
export function whyNotInvoked({ state }: Pick<Function, "state">, mode: Mode): string | null {
  if (state === "error") return "The function is in state error. Deploy it to invoke it.";
  if (state === "pending") return "The function isn't deployed yet. Deploy it to invoke it.";
  if (state === "paused" && mode !== "async") {
    return "The function is paused. Resume it, or run it asynchronously.";
  }
  return null;
}
