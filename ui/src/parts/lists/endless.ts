// A list that is fetched page by page as it is read, and whose newest end stays true.
import { signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, type Query, type Refused } from "../../api.ts";
import { type Happened, onEvent, onRefetch } from "../../store.ts";

export interface EndlessPage<T> {
  items: T[];
  next: string | null;
}

const NEWEST = 50; // that are looked at again when something has happened
const PAGE = 100;
const EMPTY_MOST = 20; // pages without a match, before the reader is asked

/** Items, newest first, each with an id; `pageOf` reads a page of the route. */
export class Endless<T, P> {
  readonly items = signal<readonly T[]>([]);
  /** Newer ones that are not shown yet: the reader is further down. */
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

  /** Fetches older ones, until some are found or there are none. */
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

  /** Looks at the newest again. `isAtTop`: whether new ones may move what the reader sees. */
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

  /** Shows those that were held back. */
  show(): void {
    this.items.value = [...this.held.value, ...this.items.value];
    this.held.value = [];
  }

  #merge(newest: EndlessPage<T>, isAtTop: boolean): void {
    const fresh = new Map(newest.items.map((one) => [this.idOf(one), one]));
    const renew = (one: T): T => fresh.get(this.idOf(one)) ?? one;
    const known = new Set([...this.held.value, ...this.items.value].map(this.idOf));
    const added = newest.items.filter((one) => !known.has(this.idOf(one)));
    const isApart = newest.next !== null && added.length === newest.items.length;
    if (isApart && added.length > 0 && isAtTop) { // so many came that some were never seen
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
    return items.filter((one) => !known.has(this.idOf(one)));
  }

  async #fetch(more: Query): Promise<EndlessPage<T>> {
    const signal = this.#abort.signal;
    return this.pageOf(await get<P>(this.path, { ...this.query, ...more }, signal));
  }
}

export interface Watching<T, P> {
  /** Begins the list anew. */
  open: () => Endless<T, P>;
  /** Whether there may be newer items after what has happened. */
  isNews: (one: Happened) => boolean;
  /** They are looked for so often at most. */
  everyMs: number;
  mayLook?: (list: Endless<T, P>) => boolean;
}

/** A list that is begun anew when `key` changes, and follows what happens; null until it is there. */
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
    const forget = [onEvent((one) => isNews(one) && look()), onRefetch(look)];
    return () => {
      clearTimeout(timer);
      mine.end();
      for (const one of forget) one();
    };
  }, [key]);
  return list.value;
}
