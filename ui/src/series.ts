// Statistics of a function's invocations over time, as data for the chart.
import type { Series as Chart } from "./parts/charts/chart.ts";
import { everyStep, spanUpTo } from "./spans.ts";
import type { Series } from "./wire.ts";

/** The length of the period shown, and the seconds per point. */
export const PERIODS = {
  hour: { seconds: 3600, step: 60 },
  day: { seconds: 86_400, step: 3600 },
  week: { seconds: 604_800, step: 3600 },
} as const;
export type Period = keyof typeof PERIODS;

/** The route's query for a period up to the end of the step that contains `now` (Unix seconds). */
export function queryOf(period: Period, now: number): { from: number; to: number; step: number } {
  const { seconds, step } = PERIODS[period];
  return { ...spanUpTo(now, step, seconds), step };
}

/** A point for every step: without ended invocations, the count is 0 and there is no latency. */
export function filled({ start, end, step_seconds: step, points }: Series): Chart {
  const { at, rows: all } = everyStep(points, { from: start, to: end }, step);
  return {
    at,
    calls: all.map((point) => point?.calls ?? 0),
    failed: all.map((point) => point?.errors ?? 0),
    cold: all.map((point) => point?.cold_starts ?? 0),
    p50: all.map((point) => point?.p50_ms ?? null),
    p99: all.map((point) => point?.p99_ms ?? null),
  };
}

export interface Sums {
  calls: number;
  errors: number;
  cold: number;
  /** The largest p99 of all points, in milliseconds; null without calls. */
  slowest: number | null;
}

export function sums({ points }: Series): Sums {
  const whole: Sums = { calls: 0, errors: 0, cold: 0, slowest: null };
  for (const point of points) {
    whole.calls += point.calls;
    whole.errors += point.errors;
    whole.cold += point.cold_starts;
    if (point.p99_ms !== null) whole.slowest = Math.max(whole.slowest ?? 0, point.p99_ms);
  }
  return whole;
}
