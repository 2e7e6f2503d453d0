// Why a call did not succeed, in a sentence of what the page knows of it.
import { duration } from "./parts/text/format.ts";
import type { Invocation, Version } from "./wire.ts";

const SIGNALS: Record<number, string> = {
  ...{ 1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS" },
  ...{ 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM" },
};
const SIGNALLED = 128;
const LAST_LINES = 3;

/** What the version that ran may take. */
export type Limits = Pick<Version, "memory_limit_mb" | "timeout_seconds">;
type Ended = Pick<
  Invocation,
  "status" | "exit_code" | "duration_ms" | "error_message" | "stderr" | "http_status"
>;

/** Whether an invocation counts as an error though its handler ended well. */
export const isHttpError = (of: Pick<Ended, "status" | "http_status">): boolean =>
  of.status === "success" && (of.http_status ?? 0) >= 500;

/** `limits`: of the version that ran, where they are known. Null where there is nothing to say. */
export function whyOf(of: Ended, limits: Limits | null): string | null {
  const { status, exit_code: code } = of;
  const told = of.error_message;
  if (isHttpError(of)) {
    return `The function responded with HTTP status ${of.http_status}, which counts as an error.`;
  }
  switch (status) {
    case "timeout": {
      const limit = limits && `; the function's timeout is ${limits.timeout_seconds} s`;
      return `It ran for ${
        duration(of.duration_ms)
      }, into its deadline, and was killed with all that it ` +
        `had started${limit ?? ""}.`;
    }
    case "oom":
      return `It needed more memory than its limit${
        limits ? ` of ${limits.memory_limit_mb} MiB` : ""
      } and was killed.`;
    case "failed":
      if (code !== null && told?.startsWith("the handler was killed by signal")) {
        const number = code - SIGNALLED;
        const name = SIGNALS[number];
        return `The handler was killed by signal ${number}${name ? ` (${name})` : ""}.`;
      }
      return told;
    case "error":
      return `The platform could not run it: ${told ?? "it does not know why"}.`;
    default:
      return told;
  }
}

/** The last lines that a handler wrote to its standard error; empty where it wrote none. */
export function lastLines(stderr: string): string {
  return stderr.trimEnd().split("\n").slice(-LAST_LINES).join("\n");
}

interface Attempted {
  attempt: number;
  status: string;
}

/** Which attempt at accepted work it was and what comes next; null of a call that is not tried again.
 * `most`: how often the function's policy tries; `due`: when it is tried next, as it is shown.
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
