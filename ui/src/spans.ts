// Time in steps of one length, as charts show it. All in Unix seconds.

export interface Span {
  from: number;
  to: number;
}

/** So many seconds, up to the end of the step that `now` is in. */
export function spanUpTo(now: number, step: number, seconds: number): Span {
  const to = (Math.floor(now / step) + 1) * step;
  return { from: to - seconds, to };
}

/** The start of every step, and what was found for it: null where nothing was. */
export function everyStep<T extends { start: number }>(
  found: readonly T[],
  { from, to }: Span,
  step: number,
): { at: number[]; rows: (T | null)[] } {
  const byStart = new Map(found.map((one) => [one.start, one]));
  const at = Array.from({ length: Math.round((to - from) / step) }, (_, n) => from + n * step);
  return { at, rows: at.map((start) => byStart.get(start) ?? null) };
}
