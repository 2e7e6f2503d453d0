// Round labels for axes.

/** Round values from 0 to `most`, with at most the given number of steps. */
export function marks(most: number, steps = 5): number[] {
  if (!(most > 0)) return [0];
  const raw = most / steps;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw * 0.999_999) ?? raw;
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, n) => n * step);
}

/** The top of an axis: the next round number. */
export function roundUp(most: number): number {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most) + 1e-9);
  const digits = [1, 2, 5, 10].find((n) => n * power >= most * 0.999_999) ?? 10;
  return digits * power;
}

const SECONDS = [10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200, 86_400];

/** The seconds between the labels of a time axis that has room for the given number. */
export function secondsBetween(span: number, room: number): number {
  return SECONDS.find((step) => span / step <= Math.max(2, room)) ?? 7 * 86_400;
}
