// Server-sent events by fetch, since EventSource cannot send a header, and a key in a query string
// would appear in logs.
import { refusalOf, withKey } from "./api.ts";

export interface ServerEvent {
  event: string;
  data: string;
  id: string | undefined;
}

/** Parses bytes, split at any position, into events. */
export class EventParser {
  #decoder = new TextDecoder();
  #rest = "";
  #event = "message";
  #data: string[] = [];
  #id: string | undefined;

  push(bytes: Uint8Array): ServerEvent[] {
    const found: ServerEvent[] = [];
    const text = this.#rest + this.#decoder.decode(bytes, { stream: true });
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) {
          found.push({ event: this.#event, data: this.#data.join("\n"), id: this.#id });
        }
        [this.#event, this.#data, this.#id] = ["message", [], undefined];
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "data") this.#data.push(value);
      else if (name === "event") this.#event = value;
      else if (name === "id") this.#id = value;
    }
    return found;
  }
}

/** Reads the events of a response until it ends. `heard`: called for each piece, even without an event. */
export async function* eventsOf(
  response: Response,
  heard: () => void = () => {},
): AsyncGenerator<ServerEvent> {
  const parser = new EventParser();
  for await (const bytes of response.body ?? []) {
    heard();
    yield* parser.push(bytes as Uint8Array);
  }
}

/** live: events arrive; lost: waiting for the next try; polling: events are not available; paused: hidden.
 */
export type Connection = "live" | "lost" | "polling" | "paused";

export interface Follower {
  onEvent(event: string, data: unknown): void;
  onState(state: Connection): void;
  /** Events were missed: known data must be fetched again. */
  onGap(): void;
}

const SILENCE_MS = 40_000; // two heartbeats and some tolerance
// after this time, a hidden tab frees its connection, since a browser has only six
const HIDDEN_MS = 5_000;
const FIRST_MS = 6_000; // if the start of a stream takes longer, a proxy does not support streams
const POLL_MS = 2_000;
const EATEN_MOST = 2;
const AGAIN_MS = 60_000; // the interval of retries while events are not available
const REFUSED = [403, 404];

/** Follows a stream while the page is visible, and reconnects by itself. */
export class Following {
  #last: string | undefined;
  #tries = 0;
  #eaten = 0;
  #polledSince = 0;
  #missed = true; // a gap before the first connection, since fetched data may be older
  #abort: AbortController | undefined;
  #wake: () => void = () => {};
  #hiddenTimer: ReturnType<typeof setTimeout> | undefined;
  #ended = false;

  constructor(readonly url: URL, readonly follower: Follower) {
    document.addEventListener("visibilitychange", this.#seen);
    this.#run();
  }

  end(): void {
    this.#ended = true;
    document.removeEventListener("visibilitychange", this.#seen);
    clearTimeout(this.#hiddenTimer);
    this.#abort?.abort();
    this.#wake();
  }

  #seen = (): void => {
    clearTimeout(this.#hiddenTimer);
    if (document.hidden) this.#hiddenTimer = setTimeout(() => this.#abort?.abort(), HIDDEN_MS);
    else this.#wake();
  };

  async #run(): Promise<void> {
    while (!this.#ended) {
      if (document.hidden) {
        this.follower.onState("paused");
        await this.#pause(600_000);
      } else if (this.#eaten >= EATEN_MOST) {
        await this.#poll();
      } else {
        await this.#once().catch(() => {});
        if (!this.#ended && !document.hidden && this.#eaten < EATEN_MOST) {
          this.follower.onState("lost");
          await this.#pause(
            Math.min(10_000, 250 * 2 ** this.#tries++) * (0.75 + Math.random() / 2),
          );
        }
      }
    }
  }

  async #poll(): Promise<void> {
    this.#polledSince ||= Date.now();
    this.follower.onState("polling");
    this.follower.onGap();
    await this.#pause(POLL_MS);
    if (Date.now() - this.#polledSince < AGAIN_MS) return;
    this.#polledSince = 0;
    this.#eaten = EATEN_MOST - 1;
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** One connection, until it ends or is silent for too long. */
  async #once(): Promise<void> {
    const abort = this.#abort = new AbortController();
    let began = false;
    let silence = setTimeout(() => {
      this.#eaten++;
      abort.abort();
    }, FIRST_MS);
    const heard = (): void => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), SILENCE_MS);
      if (began) return;
      began = true;
      this.#begin();
    };
    try {
      const own: Record<string, string> = this.#last ? { "Last-Event-ID": this.#last } : {};
      const response = await fetch(this.url, {
        headers: withKey({ ...own, Accept: "text/event-stream" }),
        signal: abort.signal,
        cache: "no-store",
        credentials: "omit",
      });
      if (REFUSED.includes(response.status)) this.#eaten = EATEN_MOST;
      if (!response.ok) throw await refusalOf(response);
      for await (const event of eventsOf(response, heard)) this.#take(event);
    } finally {
      clearTimeout(silence);
      if (began && this.#last === undefined) this.#missed = true;
    }
  }

  #begin(): void {
    this.#tries = this.#eaten = 0;
    this.follower.onState("live");
    if (this.#missed) this.follower.onGap();
    this.#missed = false;
  }

  #take(event: ServerEvent): void {
    if (event.id !== undefined) this.#last = event.id;
    if (event.event === "reset" || event.event === "gap") this.follower.onGap();
    else this.follower.onEvent(event.event, JSON.parse(event.data));
  }
}
