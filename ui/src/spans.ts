// Equal time steps for charts, in Unix seconds.

export interface Span {
  from: number;
  to: number;
}

/** A period of the given length, up to the end of the step that contains `now`. */
export function spanUpTo(now: number, step: number, seconds: number): Span {
  const to = (Math.floor(now / step) + 1) * step;
  return { from: to - seconds, to };
}

/** The start of every step with the value found for it, or null. */
export function everyStep<T extends { start: number }>(
  found: readonly T[],
  { from, to }: Span,
  step: number,
): { at: number[]; rows: (T | null)[] } {
  const byStart = new Map(found.map((row) => [row.start, row]));
  const at = Array.from({ length: Math.round((to - from) / step) }, (_, n) => from + n * step);
  return { at, rows: at.map((start) => byStart.get(start) ?? null) };
}
