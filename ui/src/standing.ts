// How a function stands beyond its state: whether it fails, what failed last, and whether it can be called.
import { isHttpError } from "./parts/invocation/status.ts";
import type { Mode } from "./trying.ts";
import type { Function, FunctionStats, FunctionSummary, InvocationSummary } from "./wire.ts";

type Counted = Pick<FunctionSummary, "state" | "invocation_count" | "error_count">;

/** Whether an active function has failed every time: in the last hour, or ever where nothing called
 * it in that hour.
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

/** Whether an invocation failed, or its handler gave an HTTP response that says so. */
export const isError = (one: Ended): boolean => FAILED.has(one.status) || isHttpError(one);

/** Why it counts as an error; null where it does not. */
export const reasonOf = (one: Ended): string | null =>
  one.error_message ??
    (isHttpError(one) ? `the handler responded with HTTP ${one.http_status}` : null);

/** What an invocation came to, in a line: why it counts as an error, or else its status; of one that was
 * tried several times also which attempt that is of, or, while it is queued, which one comes next.
 */
export function cameTo(one: Ended & Pick<InvocationSummary, "attempt">): string {
  const reason = reasonOf(one);
  if (one.attempt < 2) return reason ?? one.status;
  const number = `attempt ${one.attempt}`;
  return `${isError(one) ? number : `${one.status}, ${number}`}${reason ? `: ${reason}` : ""}`;
}

/** Why a function cannot be invoked now; null: it can. One that is paused takes asynchronous
 * invocations, which run once it is resumed.
 */
export function whyNotInvoked({ state }: Pick<Function, "state">, mode: Mode): string | null {
  if (state === "error") return "The function is in state error. Deploy it to invoke it.";
  if (state === "pending") return "The function isn't deployed yet. Deploy it to invoke it.";
  if (state === "paused" && mode !== "async") {
    return "The function is paused. Resume it, or run it asynchronously.";
  }
  return null;
}
