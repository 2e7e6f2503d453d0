// Data of the usage page: its period, bars without gaps, and the CSV file of its table.
import { everyStep, type Span as Time, spanUpTo } from "./spans.ts";
import type { UsageRow, UsageSums } from "./wire.ts";

export type Period = "day" | "week" | "month";

const HOUR_S = 3600;
const DAY_S = 24 * HOUR_S;
const LENGTHS: Record<Period, { step: "hour" | "day"; steps: number }> = {
  day: { step: "hour", steps: 24 },
  week: { step: "hour", steps: 7 * 24 },
  month: { step: "day", steps: 30 },
};
export const PERIODS = Object.keys(LENGTHS) as Period[];

/** The API's parameters; `step_s`: the length of a bar in seconds. */
export interface Span extends Time {
  step: "hour" | "day";
  step_s: number;
}

/** The hours or days up to the one that contains `now` (Unix seconds). Days are in UTC. */
export function spanOf(period: Period, now: number): Span {
  const { step, steps } = LENGTHS[period];
  const step_s = step === "hour" ? HOUR_S : DAY_S;
  return { ...spanUpTo(now, step_s, steps * step_s), step, step_s };
}

export interface Bars {
  /** Unix seconds at which each bar begins. */
  at: number[];
  rows: (UsageSums | null)[];
}

/** A bar for every step, including those without usage. */
export function barsOf(rows: readonly UsageRow[], span: Span): Bars {
  return everyStep(rows, span, span.step_s);
}

/** The name of a row: a deleted function has no name any more. */
export function nameOf(row: UsageRow): string {
  if (row.function_name !== null) return row.function_name;
  return row.function_id === null ? "functions that are no longer told apart" : "deleted function";
}

const COLUMNS: [name: string, value: (row: UsageRow) => string | number | null][] = [
  ["function_id", (row) => row.function_id],
  ["function_name", (row) => row.function_name],
  ["calls", (row) => row.calls],
  ["errors", (row) => row.errors],
  ["cold_starts", (row) => row.cold_starts],
  ["queued", (row) => row.queued],
  ["gb_seconds", (row) => row.gb_seconds],
  ["cpu_seconds", (row) => row.cpu_seconds],
  ["egress_refused", (row) => row.egress_refused],
];

const iso = (unix: number): string => new Date(unix * 1000).toISOString();
const quoted = (value: string | number | null): string =>
  /[",\r\n]/.test(String(value ?? ""))
    ? `"${String(value).replaceAll('"', '""')}"`
    : `${value ?? ""}`;

/** The table as CSV (RFC 4180), with the period in every row. */
export function csvOf(rows: readonly UsageRow[], span: Span): string {
  const head = ["from", "to", ...COLUMNS.map(([name]) => name)];
  const lines = rows.map((row) => [
    iso(span.from),
    iso(span.to),
    ...COLUMNS.map(([, value]) => value(row)),
  ]);
  return [head, ...lines].map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

/** The used part of a limit. `used`: null if unknown; `limit`: null if there is none. */
export interface Limit {
  name: string;
  used: number | null;
  limit: number | null;
  said: (n: number) => string;
}

/** From 0 to 1; null if there is nothing to compare. A limit of 0 counts as fully used. */
export const shareOf = ({ used, limit }: Limit): number | null =>
  used === null || limit === null ? null : limit === 0 ? 1 : Math.min(1, used / limit);
