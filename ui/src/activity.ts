// Current activity of functions, from events: their pools, their invocations of the last minute,
// and their latest invocation. Each function has its own signal, so that an event redraws only its
// row.
import { signal } from "@preact/signals";
import { type Counts, NO_INSTANCES } from "./parts/charts/pool.ts";
import { get, pages, type Refused } from "./api.ts";
import { byId, type Happened, onEvent, onRefetch } from "./store.ts";
import type { FunctionStats, FunctionStatsPage, PoolList } from "./wire.ts";

export const BUCKETS = 12;
const BUCKET_S = 60 / BUCKETS;

/** Ended invocations in buckets of five seconds. `last`: the number of the newest bucket since 1970. */
export interface Minute {
  last: number;
  counts: readonly number[];
}

export const EMPTY: Minute = { last: 0, counts: Array(BUCKETS).fill(0) };

/** The buckets of the last minute before a given time, oldest first. */
export function minuteAt(minute: Minute, unix: number): number[] {
  const shift = Math.floor(unix / BUCKET_S) - minute.last;
  return minute.counts.map((_, n) => minute.counts[n + shift] ?? 0);
}

/** Adds invocations that ended now to the last minute. */
export function withCalls(minute: Minute, calls: number, unix: number): Minute {
  const counts = minuteAt(minute, unix);
  counts[BUCKETS - 1] = (counts[BUCKETS - 1] ?? 0) + calls;
  return { last: Math.floor(unix / BUCKET_S), counts };
}

/** A last minute for which only the number of invocations is known. */
export function evenMinute(calls: number, unix: number): Minute {
  return { last: Math.floor(unix / BUCKET_S), counts: Array(BUCKETS).fill(calls / BUCKETS) };
}

/** Statistics of the invocations of the last hour; null if there were none. */
export const statsOf = byId<FunctionStats | null>(null);
export const poolOf = byId<Counts>(NO_INSTANCES);
export const minuteOf = byId<Minute>(EMPTY);
export const lastCallOf = byId<number | null>(null);

/** The counts in a `pool` event. Instances that are being cleaned count as busy, as in the API. */
export function countsOf(event: Happened): Counts {
  const number = (name: string) => Number(event[name] ?? 0);
  return {
    busy_count: number("busy") + number("recycling"),
    ready_count: number("ready"),
    warming_count: number("warming"),
    parked_count: number("parked"),
    memory_mib: number("memory_mib"),
  };
}

function heard(event: Happened): void {
  const id = event.function_id;
  if (!id) return;
  if (event.type === "pool") {
    standing.add(id);
    poolOf(id).value = countsOf(event);
  }
  if (event.type === "invocation.ended") ended(id, 1);
  if (event.type === "calls") {
    ended(id, Object.values(event.ended as Record<string, number>).reduce((a, b) => a + b, 0));
  }
}

function ended(id: string, calls: number): void {
  const unix = Date.now() / 1000;
  if (calls > 0) minuteOf(id).value = withCalls(minuteOf(id).peek(), calls, unix);
  lastCallOf(id).value = unix;
}

onEvent(heard);

const WINDOW_S = 3600;
const STALE_MS = 10_000; // maximum delay between an invocation and fetching the statistics

/** Sets the signal of each function. Functions that the API does not list had no invocations. */
async function fetchStats(
  window: number,
  set: (id: string, stats: FunctionStats | null) => void,
  known: Set<string>,
): Promise<void> {
  const found = new Set<string>();
  for await (
    const page of pages<FunctionStatsPage>("api/functions/stats", { window })
  ) {
    for (const stats of page.functions) {
      found.add(stats.function_id);
      set(stats.function_id, stats);
    }
  }
  for (const id of known) if (!found.has(id)) set(id, null);
  for (const id of found) known.add(id);
}

const inHour = new Set<string>(), inMinute = new Set<string>();

function fetchHour(): Promise<void> {
  return fetchStats(WINDOW_S, (id, stats) => {
    statsOf(id).value = stats;
  }, inHour);
}

function fetchMinute(): Promise<void> {
  return fetchStats(60, (id, stats) => {
    minuteOf(id).value = stats ? evenMinute(stats.calls, Date.now() / 1000) : EMPTY;
  }, inMinute);
}

const standing = new Set<string>();

async function fetchPools(): Promise<void> {
  const { pools: found } = await get<PoolList>("api/functions/pools");
  const ids = new Set(found.map((pool) => pool.function_id));
  for (const pool of found) poolOf(pool.function_id).value = pool;
  for (const id of standing) if (!ids.has(id)) poolOf(id).value = NO_INSTANCES;
  for (const id of ids) standing.add(id);
}

/** Why the last fetch of pools or statistics failed. */
export const activityProblem = signal<Refused | null>(null);

async function fetchAll(...wanted: (() => Promise<void>)[]): Promise<void> {
  try {
    await Promise.all(wanted.map((load) => load()));
    activityProblem.value = null;
  } catch (error) {
    activityProblem.value = error as Refused;
  }
}

export const fetchActivity = (): Promise<void> => fetchAll(fetchPools, fetchMinute, fetchHour);

/** Keeps pools and statistics up to date until the returned function is called. Both are fetched
 * now and after a gap in the events, and statistics also shortly after invocations.
 */
export function watchActivity(): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const hour = () => {
    timer = undefined;
    // An earlier failure is shown until both requests have succeeded.
    if (activityProblem.peek()) fetchActivity();
    else fetchAll(fetchHour);
  };
  const ends = [
    onRefetch(fetchActivity),
    onEvent((event) => {
      const isEnd = event.type === "invocation.ended" || event.type === "calls";
      if (isEnd) timer ??= setTimeout(hour, STALE_MS);
    }),
  ];
  fetchActivity();
  return () => {
    clearTimeout(timer);
    for (const end of ends) end();
  };
}
