// The page's copy of server data: fetched once, updated by events, and fetched again after a gap.
import { batch, effect, type Signal, signal, untracked } from "@preact/signals";
import { credential, get, needsKey, pages, Refused, urlOf } from "./api.ts";
import { type Connection, Following } from "./stream.ts";
import type { Function, FunctionSummary, FunctionSummaryPage, Whoami } from "./wire.ts";

/** The data of an event of /api/events; its fields depend on its type. */
export interface Happened {
  type: string;
  function_id?: string;
  invocation_id?: string;
  [field: string]: unknown;
}

/** The time in Unix seconds, updated every second while the page is visible. */
export const now = signal(Date.now() / 1000);
export const connection = signal<Connection>("lost");
/** The caller and the server's features; null until they are known. */
export const who = signal<Whoami | null>(null);
/** Why the page's data could not be fetched. */
export const problem = signal<Refused | null>(null);

/** All functions by id, in order of creation. */
export const functions = signal<ReadonlyMap<string, FunctionSummary>>(new Map());
/** The id of a function by its name; null if it is unknown. */
export function idOf(name: string): string | null {
  for (const fn of functions.value.values()) if (fn.name === name) return fn.id;
  return null;
}

export const areAllLoaded = signal(false);

type Listener = (event: Happened) => void;
const listeners = new Set<Listener>();
const refetchers = new Set<() => void>();

/** Calls `listener` for every event until the returned function is called. */
export function onEvent(listener: Listener): () => void {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** Calls `refetch` after missed events, and every two seconds if events are not available. */
export function onRefetch(refetch: () => void): () => void {
  refetchers.add(refetch);
  return () => void refetchers.delete(refetch);
}

const CHANGED = /^(function|alias)\./;
const waiting = new Set<string>();
let loading: AbortController | null = null;

export async function load(): Promise<void> {
  loading?.abort();
  const mine = loading = new AbortController();
  try {
    who.value = await get<Whoami>("api/whoami", {}, mine.signal);
    const all = new Map<string, FunctionSummary>();
    const query = { view: "brief", limit: 1000 };
    const more = pages<FunctionSummaryPage>("api/functions", query, mine.signal);
    for await (const page of more) {
      for (const fn of page.functions) all.set(fn.id, fn);
      // At first, each page is shown at once. Later, the list is replaced as a whole.
      if (!areAllLoaded.value) functions.value = new Map(all);
    }
    functions.value = all;
    areAllLoaded.value = true;
    problem.value = null;
    loadedAt = Date.now();
  } catch (error) {
    if (!mine.signal.aborted) problem.value = error as Refused;
  } finally {
    if (loading === mine) loading = null;
  }
}

/** Refetches one function, which has changed. */
export async function reload(id: string): Promise<void> {
  try {
    put(id, await get<Function>(`api/functions/${id}`));
  } catch (error) {
    if (error instanceof Refused && error.status === 404) put(id, null);
  }
}

/** Stores a function's present state; null: it was deleted. */
export function put(id: string, fn: FunctionSummary | null): void {
  const next = new Map(functions.peek());
  if (fn) next.set(id, fn);
  else next.delete(id);
  functions.value = next;
}

const TOGETHER_MS = 50; // the page is redrawn once for all events within this time
let happened: Happened[] = [];
let drawing: ReturnType<typeof setTimeout> | undefined;

/** Passes the first event on at once, and further ones shortly after it together. */
function heard(type: string, data: unknown): void {
  happened.push({ ...(data as object), type });
  if (drawing === undefined) tell();
}

function tell(): void {
  drawing = happened.length > 0 ? setTimeout(tell, TOGETHER_MS) : undefined;
  const all = happened;
  happened = [];
  batch(() => all.forEach(tellOf));
}

function tellOf(event: Happened): void {
  if (CHANGED.test(event.type) && event.function_id) change(event.type, event.function_id);
  for (const listener of listeners) listener(event);
}

const MANY = 50;
let soon: ReturnType<typeof setTimeout> | undefined;

/** Refetches changed functions: each once for several events together, or all functions if many
 * have changed.
 */
function change(type: string, id: string): void {
  if (type === "function.deleted") return put(id, null);
  if (waiting.has(id)) return;
  if (waiting.size >= MANY) {
    clearTimeout(soon);
    soon = setTimeout(load, 1000);
    return;
  }
  waiting.add(id);
  setTimeout(() => {
    waiting.delete(id);
    reload(id);
  }, 50);
}

// interval for the list if there are no events; small data is fetched more often
const POLLED_MS = 15_000;
let loadedAt = 0;

function refetch(): void {
  const isFresh = loading !== null || Date.now() - loadedAt < POLLED_MS;
  if (connection.peek() !== "polling" || !isFresh) load();
  for (const listener of refetchers) listener();
}

/** Follows the server from now on, except while nobody is signed in. */
export function start(): void {
  const tick = () => {
    if (!document.hidden) now.value = Date.now() / 1000;
  };
  setInterval(tick, 1000);
  document.addEventListener("visibilitychange", tick);
  let following: Following | null = null;
  effect(() => {
    const isOut = needsKey.value;
    following?.end();
    following = isOut ? null : new Following(urlOf("api/events", { follow: true }), {
      onEvent: heard,
      onState: (state) => {
        connection.value = state;
      },
      onGap: refetch,
    });
    if (!isOut) untracked(refetch);
  });
}

/** Drops the key and all data that it gave access to. */
export function signOut(): void {
  credential.forget();
  functions.value = new Map();
  areAllLoaded.value = false;
  who.value = null;
}

/** A signal for each id, created on first use, so that an event redraws only one row. */
export function byId<T>(first: T): (id: string) => Signal<T> {
  const all = new Map<string, Signal<T>>();
  return (id) => {
    const known = all.get(id);
    if (known) return known;
    const made = signal(first);
    all.set(id, made);
    return made;
  };
}
