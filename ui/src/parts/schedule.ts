// What a schedule says, in short: when it is due, and what came of it.
import { html } from "../html.ts";
import type { Schedule, ScheduleRun } from "../wire.ts";
import { Status } from "./status.ts";

const UNITS: [number, string][] = [[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** An interval in the largest unit that it is a multiple of: "15 min". */
export function interval(seconds: number): string {
  const [size, unit] = UNITS.find(([size]) => seconds % size === 0) ?? [1, "s"];
  return `${seconds / size} ${unit}`;
}

/** The cron expression with its time zone, or the interval. */
export function When({ of }: { of: Schedule }) {
  if (of.every_seconds != null) {
    return html`<span class="small">every ${interval(of.every_seconds)}</span>`;
  }
  return html`<code>${of.cron}</code> <span class="small muted">${of.timezone}</span>`;
}

/** What was decided on a run, and how its call ended where there is one. */
export function Outcome({ of }: { of: ScheduleRun }) {
  if (of.outcome === "accepted") return html`<${Status} of=${of.status ?? "accepted"} />`;
  const said = of.missed > 1 ? `${of.missed} ${of.outcome}` : of.outcome;
  const kind = of.outcome === "waiting" ? "queued" : of.outcome === "missed" ? "failed" : "paused";
  return html`<span class=${`status ${kind}`} title=${of.reason ?? ""}>${said}</span>`;
}

/** A moment in the zone of its schedule, and its name where the reader lives in another. */
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
