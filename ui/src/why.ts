// Why an invocation did not succeed, as a sentence made from its cause.
import { duration, MIB } from "./parts/text/format.ts";
import type { EndCause, Invocation } from "./wire.ts";

const SIGNALS: Record<number, string> = {
  ...{ 1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS" },
  ...{ 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM" },
};
const LAST_LINES = 3;

type Ended = Pick<Invocation, "status" | "duration_ms" | "error_message">;

/** `cause`: null in records of earlier releases, and of successes. Returns null if there is no
 * sentence.
 */
export function whyOf(of: Ended, cause: EndCause | null): string | null {
  const message = of.error_message;
  if (of.status === "error") {
    return `The platform could not run it: ${message ?? "it does not know why"}.`;
  }
  switch (cause?.cause ?? of.status) {
    case "timeout": {
      const limit = cause?.limit_seconds == null ? "" : `; the timeout is ${cause.limit_seconds} s`;
      return `It ran for ${duration(of.duration_ms)}, into its deadline, and was killed with all ` +
        `that it had started${limit}.`;
    }
    case "oom": {
      const limit = cause?.limit_bytes == null ? "" : ` of ${cause.limit_bytes / MIB} MiB`;
      return `It needed more memory than its limit${limit} and was killed.`;
    }
    case "signal": {
      const name = SIGNALS[cause?.signal ?? 0];
      return `The handler was killed by signal ${cause?.signal}${name ? ` (${name})` : ""}.`;
    }
    case "http":
      return message ??
        `The function responded with HTTP status ${cause?.status}, which counts as an error.`;
    default:
      return message;
  }
}

/** The last lines that a handler wrote to its standard error; empty if it wrote none. */
export function lastLines(stderr: string): string {
  return stderr.trimEnd().split("\n").slice(-LAST_LINES).join("\n");
}

interface Attempted {
  attempt: number;
  status: string;
}

/** The number of an asynchronous invocation's last attempt, and the next step; null if the
 * invocation is synchronous, running, or succeeded. `most`: the maximum attempts of the policy;
 * `due`: when the next attempt is due, as shown.
 */
export function nextOf(
  { status, source, attempts, most, due, isDead }: {
    status: string;
    source: string | null;
    attempts: readonly Attempted[];
    most: number | null;
    due: string | null;
    isDead: boolean;
  },
): string | null {
  const last = attempts.at(-1);
  if (source === null || source === "sync" || source === "url" || !last) return null;
  const number = `attempt ${last.attempt}${
    most === null ? "" : ` of ${Math.max(most, last.attempt)}`
  }`;
  if (status === "queued") {
    return `After ${number} (${last.status}) it is tried again${due ? `, at ${due}` : ""}.`;
  }
  if (status === "success" || status === "running") return null;
  if (isDead) return `That was ${number}: it was given up and is a dead letter, to be redriven.`;
  return `That was ${number}: it is not tried again.`;
}
