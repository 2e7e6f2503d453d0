// Formats numbers and times for people.

/** Milliseconds in a suitable unit. */
export function duration(ms: number | null | undefined): string {
  if (ms == null) return "–";
  if (ms === 0) return "0 ms";
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 10) return `${Number(ms.toFixed(1))} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** An estimate in milliseconds: two digits, marked as an estimate. */
export function about(ms: number | null): string {
  if (ms === null) return duration(ms);
  const rounded = duration(Number(ms.toPrecision(2)));
  return `about ${rounded.replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ")}`;
}

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export function count(n: number): string {
  return n < 100_000 ? whole.format(n) : compact.format(n);
}

/** "1 call", "2 calls". `plural`: if it is not formed with s. */
export function counted(n: number, singular: string, plural = `${singular}s`): string {
  return `${count(n)} ${n === 1 ? singular : plural}`;
}

/** A quantity such as GB-seconds, with at most three significant digits below 100. */
export function amount(n: number): string {
  if (n >= 99.95) return count(Math.round(n));
  return n > 0 && n < 0.001 ? "< 0.001" : String(Number(n.toPrecision(n < 1 ? 2 : 3)));
}

export function percent(part: number, whole: number): string {
  if (!whole) return "–";
  const share = (100 * part) / whole;
  if (share > 0 && share < 0.1) return "< 0.1 %";
  return `${share > 0 && share < 10 ? Number(share.toFixed(1)) : Math.round(share)} %`;
}

export const MIB = 1024 * 1024;
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(n: number): string {
  let unit = 0;
  while (n >= 1024 && unit < UNITS.length - 1) {
    n /= 1024;
    unit++;
  }
  return `${unit === 0 || n >= 100 ? Math.round(n) : Number(n.toFixed(1))} ${UNITS[unit]}`;
}

/** The age of a Unix time; `now` in Unix seconds. */
export function ago(unix: number | null | undefined, now: number): string {
  if (unix == null) return "never";
  const s = Math.max(0, Math.round(now - unix));
  if (s < 2) return "now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86_400)} d ago`;
}

/** The time until a Unix time; `now` in Unix seconds. */
export function ahead(unix: number, now: number): string {
  const s = Math.round(unix - now);
  if (s < 1) return "now";
  if (s < 60) return `in ${s} s`;
  if (s < 3600) return `in ${Math.floor(s / 60)} min`;
  if (s < 86_400) return `in ${Math.floor(s / 3600)} h`;
  return `in ${Math.floor(s / 86_400)} d`;
}

/** A Unix time as date and time in the user's locale. */
export function exact(unix: number | null | undefined): string {
  return unix == null ? "" : new Date(unix * 1000).toLocaleString();
}
