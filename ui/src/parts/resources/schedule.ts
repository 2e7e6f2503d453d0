// Short descriptions of a schedule's due times and outcomes.
import { useRef } from "preact/hooks";
import { get } from "../../api.ts";
import { html } from "../../html.ts";
import { href } from "../../router.ts";
import type { Schedule, ScheduleRun, ScheduleRunPage } from "../../wire.ts";
import { useFetched } from "../lists/fetched.ts";
import { exact } from "../text/format.ts";
import { Status } from "../invocation/status.ts";

const UNITS: [number, string][] = [[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** An interval in the largest unit of which it is a multiple: "15 min". */
export function interval(seconds: number): string {
  const [size, unit] = UNITS.find(([size]) => seconds % size === 0) ?? [1, "s"];
  return `${seconds / size} ${unit}`;
}

/** Its due times in words, then the cron expression with its time zone. */
export function When({ of }: { of: Schedule }) {
  const words = of.in_words ?? (of.cron ? null : `every ${interval(of.every_seconds ?? 0)}`);
  return html`<span class="when">${
    words && html`
      <span>${words}</span>
    `
  }${
    of.cron !== null &&
    html`<small class="muted"><code>${of.cron}</code> ${of.timezone}</small>`
  }</span>`;
}

/** The status as which a run is drawn: that of its invocation, or one for the decision not to run
 * it.
 */
export function kindOf({ outcome, status }: ScheduleRun): string {
  if (outcome === "accepted") return status ?? "queued";
  return outcome === "waiting" ? "queued" : outcome === "missed" ? "failed" : "paused";
}

/** The latest runs, newest on the right: one symbol each, with a link to the invocation. */
export function RunStrip({ runs, functionId }: {
  runs: readonly ScheduleRun[];
  functionId: string | null;
}) {
  return html`<span class="run-strip" role="group" aria-label="Latest runs">${
    [...runs].reverse().map((run) => {
      const said = `${saidOf(run)}, ${exact(run.due_at)}`;
      const glyph = html`<${Status} of=${kindOf(run)} said=${said} isQuiet />`;
      return run.invocation_id && functionId
        ? html`<a class="above" key=${run.due_at} href=${
          href(["functions", functionId, "invocations", run.invocation_id])
        } tabindex="-1">${glyph}</a>`
        : html`<span key=${run.due_at}>${glyph}</span>`;
    })
  }</span>`;
}

const STRIP = 12, SEEN_MS = 150; // rows that the user scrolls past fetch nothing

/** The strip in a row of a list. `latest`: changes with each new run, and with its status. */
export function FetchedStrip({ name, functionId, latest }: {
  name: string;
  functionId: string | null;
  latest: string;
}) {
  const { value } = useFetched(async (signal) => {
    await new Promise((resolve) => setTimeout(resolve, SEEN_MS));
    const path = `api/schedules/${encodeURIComponent(name)}/runs`;
    return signal.aborted
      ? null
      : (await get<ScheduleRunPage>(path, { limit: STRIP }, signal)).runs;
  }, [name, latest]);
  const last = useRef<readonly ScheduleRun[]>([]);
  last.current = value.value ?? last.current;
  return html`<${RunStrip} runs=${last.current} functionId=${functionId} />`;
}

const saidOf = (of: ScheduleRun): string =>
  of.outcome === "accepted"
    ? of.status ?? "accepted"
    : of.missed > 1
    ? `${of.missed} ${of.outcome}`
    : of.outcome;

/** The decision on a run, and the outcome of its invocation, if there is one. */
export function Outcome({ of }: { of: ScheduleRun }) {
  if (of.outcome === "accepted") return html`<${Status} of=${of.status ?? "accepted"} />`;
  return html`<span class=${`status ${kindOf(of)}`} title=${of.reason ?? ""}>${saidOf(of)}</span>`;
}

/** A time in the schedule's time zone, with the zone's name if the user's zone is different. */
export function inZone(unix: number, timezone: string): string {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone === timezone;
  return new Date(unix * 1000).toLocaleString(undefined, {
    timeZone: timezone,
    weekday: "short",
    day: "numeric",
    month: "short",
    year: "numeric",
    hour: "2-digit",
    minute: "2-digit",
    ...(own ? {} : { timeZoneName: "short" }),
  });
}
