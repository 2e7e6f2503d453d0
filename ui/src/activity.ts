// What functions are doing: their pools, their calls of the last minute and when the last one was, from
// events; a signal a function, so that an event redraws one row and nothing else.
import { type Counts, NO_INSTANCES } from "./parts/pool.ts";
import { byId, type Happened, onEvent } from "./store.ts";

export const BUCKETS = 12;
const BUCKET_S = 60 / BUCKETS;

/** Calls that ended, by five seconds. `last`: the number of the newest bucket since 1970. */
export interface Minute {
  last: number;
  counts: readonly number[];
}

export const EMPTY: Minute = { last: 0, counts: Array(BUCKETS).fill(0) };

/** The last minute as it looks at a time; oldest bucket first. */
export function minuteAt(one: Minute, unix: number): number[] {
  const shift = Math.floor(unix / BUCKET_S) - one.last;
  return one.counts.map((_, n) => one.counts[n + shift] ?? 0);
}

/** The last minute with some more calls that ended now. */
export function withCalls(one: Minute, calls: number, unix: number): Minute {
  const counts = minuteAt(one, unix);
  counts[BUCKETS - 1] = (counts[BUCKETS - 1] ?? 0) + calls;
  return { last: Math.floor(unix / BUCKET_S), counts };
}

export const poolOf = byId<Counts>(NO_INSTANCES);
export const minuteOf = byId<Minute>(EMPTY);
export const lastCallOf = byId<number | null>(null);

/** What an event `pool` says: an instance that is being cleaned is busy, as for other clients. */
export function countsOf(one: Happened): Counts {
  const number = (name: string) => Number(one[name] ?? 0);
  return {
    busy_count: number("busy") + number("recycling"),
    ready_count: number("ready"),
    warming_count: number("warming"),
  };
}

function heard(one: Happened): void {
  const id = one.function_id;
  if (!id) return;
  if (one.type === "pool") poolOf(id).value = countsOf(one);
  if (one.type === "invocation.ended") ended(id, 1);
  if (one.type === "calls") {
    ended(id, Object.values(one.ended as Record<string, number>).reduce((a, b) => a + b, 0));
  }
}

function ended(id: string, calls: number): void {
  const unix = Date.now() / 1000;
  if (calls > 0) minuteOf(id).value = withCalls(minuteOf(id).peek(), calls, unix);
  lastCallOf(id).value = unix;
}

onEvent(heard);
