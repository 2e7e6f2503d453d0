// A function's condition besides its state: whether it fails, its last failure, and whether it can be
// invoked.
import { isHttpError } from "./parts/invocation/status.ts";
import type { Mode } from "./trying.ts";
import type { Function, FunctionStats, FunctionSummary, InvocationSummary } from "./wire.ts";

type Counted = Pick<FunctionSummary, "state" | "invocation_count" | "error_count">;

/** Whether all invocations of an active function failed: those of the last hour or, if there were
 * none, all that it ever had.
 */
export function isFailing(
  fn: Counted,
  lastHour: Pick<FunctionStats, "calls" | "errors"> | null,
): boolean {
  const [calls, errors] = lastHour && lastHour.calls > 0
    ? [lastHour.calls, lastHour.errors]
    : [fn.invocation_count, fn.error_count];
  return fn.state === "active" && calls > 0 && errors >= calls;
}

const FAILED = new Set(["failed", "timeout", "oom", "cancelled", "error", "interrupted"]);

type Ended = Pick<InvocationSummary, "status" | "error_message" | "http_status">;

/** Whether an invocation failed, or its handler's HTTP response is an error. */
export const isError = (invocation: Ended): boolean =>
  FAILED.has(invocation.status) || isHttpError(invocation);

/** Why an invocation counts as an error; null if it doesn't. */
export const reasonOf = (invocation: Ended): string | null =>
  invocation.error_message ??
    (isHttpError(invocation) ? `the handler responded with HTTP ${invocation.http_status}` : null);

/** The outcome of an invocation in a line: why it counts as an error, or its status. If it has
 * several attempts, also the number of the last one or, while queued, of the next one.
 */
export function cameTo(invocation: Ended & Pick<InvocationSummary, "attempt">): string {
  const reason = reasonOf(invocation);
  if (invocation.attempt < 2) return reason ?? invocation.status;
  const number = `attempt ${invocation.attempt}`;
  return `${isError(invocation) ? number : `${invocation.status}, ${number}`}${
    reason ? `: ${reason}` : ""
  }`;
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
