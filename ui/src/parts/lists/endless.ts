// A list that is fetched page by page while scrolling, and whose newest end is kept up to date.
import { signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, type Query, type Refused } from "../../api.ts";
import { type Happened, onEvent, onRefetch } from "../../store.ts";

export interface EndlessPage<T> {
  items: T[];
  next: string | null;
}

const NEWEST = 50; // items to refetch after a change
const PAGE = 100;
const EMPTY_MOST = 20; // pages without a match before the user is asked

/** Items, newest first, each with an id; `pageOf` reads a page of the response. */
export class Endless<T, P> {
  readonly items = signal<readonly T[]>([]);
  /** New items that are not shown yet, since the user has scrolled down. */
  readonly held = signal<readonly T[]>([]);
  readonly isWhole = signal(false);
  readonly isBusy = signal(false);
  readonly problem = signal<Refused | null>(null);
  #cursor: string | null = null;
  #abort = new AbortController();
  #isStale = false;
  #isLooking = false;

  constructor(
    readonly path: string,
    readonly query: Query,
    readonly idOf: (item: T) => string,
    readonly pageOf: (page: P) => EndlessPage<T>,
  ) {
    this.more();
  }

  end(): void {
    this.#abort.abort();
  }

  /** Fetches older items until some match, none are left, or `EMPTY_MOST` pages had no match. */
  async more(): Promise<void> {
    if (this.isBusy.value || this.isWhole.value) return;
    this.isBusy.value = true;
    try {
      for (let empty = 0; empty < EMPTY_MOST; empty++) {
        const found = await this.#fetch({ limit: PAGE, cursor: this.#cursor });
        this.#cursor = found.next;
        this.isWhole.value = found.next === null;
        this.items.value = [...this.items.value, ...this.#unknown(found.items)];
        if (found.items.length > 0 || found.next === null) break;
      }
      this.problem.value = null;
    } catch (error) {
      if (!this.#abort.signal.aborted) this.problem.value = error as Refused;
    }
    this.isBusy.value = false;
  }

  /** Refetches the newest items. `isAtTop`: whether new items may move the visible rows. */
  async look(isAtTop: () => boolean): Promise<void> {
    if (this.#isLooking) {
      this.#isStale = true;
      return;
    }
    this.#isLooking = true;
    try {
      do {
        this.#isStale = false;
        this.#merge(await this.#fetch({ limit: NEWEST }), isAtTop());
      } while (this.#isStale);
      this.problem.value = null;
    } catch (error) {
      if (!this.#abort.signal.aborted) this.problem.value = error as Refused;
    }
    this.#isLooking = false;
  }

  /** Shows the new items. */
  show(): void {
    this.items.value = [...this.held.value, ...this.items.value];
    this.held.value = [];
  }

  #merge(newest: EndlessPage<T>, isAtTop: boolean): void {
    const fresh = new Map(newest.items.map((item) => [this.idOf(item), item]));
    const renew = (item: T): T => fresh.get(this.idOf(item)) ?? item;
    const known = new Set([...this.held.value, ...this.items.value].map(this.idOf));
    const added = newest.items.filter((item) => !known.has(this.idOf(item)));
    const isApart = newest.next !== null && added.length === newest.items.length;
    if (isApart && added.length > 0 && isAtTop) { // all fetched items are new, so some were missed
      this.items.value = newest.items;
      this.held.value = [];
      this.#cursor = newest.next;
      this.isWhole.value = false;
      return;
    }
    this.items.value = this.items.value.map(renew);
    this.held.value = [...added, ...this.held.value.map(renew)];
    if (isAtTop) this.show();
  }

  #unknown(items: T[]): T[] {
    const known = new Set([...this.held.value, ...this.items.value].map(this.idOf));
    return items.filter((item) => !known.has(this.idOf(item)));
  }

  async #fetch(more: Query): Promise<EndlessPage<T>> {
    const signal = this.#abort.signal;
    return this.pageOf(await get<P>(this.path, { ...this.query, ...more }, signal));
  }
}

export interface Watching<T, P> {
  /** Restarts the list. */
  open: () => Endless<T, P>;
  /** Whether newer items may exist after an event. */
  isNews: (event: Happened) => boolean;
  /** The minimum interval between refetches. */
  everyMs: number;
  mayLook?: (list: Endless<T, P>) => boolean;
}

/** A list that restarts when `key` changes, and is kept up to date; null in the first render. */
export function useEndless<T, P>(
  key: string,
  { open, isNews, everyMs, mayLook }: Watching<T, P>,
): Endless<T, P> | null {
  const list = useSignal<Endless<T, P> | null>(null);
  useEffect(() => {
    const mine = list.value = open();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = () => {
      timer ||= setTimeout(() => {
        timer = undefined;
        if (mayLook?.(mine) ?? true) mine.look(() => scrollY < 200);
      }, everyMs);
    };
    const forget = [onEvent((event) => isNews(event) && look()), onRefetch(look)];
    return () => {
      clearTimeout(timer);
      mine.end();
      for (const stop of forget) stop();
    };
  }, [key]);
  return list.value;
}
