// The public API, as any client sees it. The key lives in this tab's session storage, nowhere else.
import { signal } from "@preact/signals";
import type { ErrorBody, ErrorDetails } from "./wire.ts";

const KEY = "quiltfn.key";

/** Where the API is: one level above the page, below whatever path a proxy has put in front. */
export const root = (): URL => new URL("../", document.baseURI);

/** Whether the server wants a key that this tab does not have, or another one than it has. */
export const needsKey = signal(false);

export const credential = {
  get: (): string | null => sessionStorage.getItem(KEY),
  set(text: string): void {
    sessionStorage.setItem(KEY, text);
    needsKey.value = false;
  },
  forget(): void {
    sessionStorage.removeItem(KEY);
    needsKey.value = true;
  },
};

/** What the server refused, in its own words. `status` 0: it could not be reached. */
export class Refused extends Error {
  readonly code: string | undefined;
  readonly hint: string | null;
  readonly details: ErrorDetails | null;
  readonly retryAfter: number | null;
  constructor(readonly status: number, body?: Partial<ErrorBody> | null) {
    super(body?.error ?? `The server answered ${status}.`);
    this.code = body?.error_code;
    this.hint = body?.hint ?? null;
    this.details = body?.details ?? null;
    this.retryAfter = body?.retry_after ?? null;
  }
}

/** `more` with the key, where there is one. */
export function withKey(more: Record<string, string> = {}): Record<string, string> {
  const key = credential.get();
  return key ? { ...more, "X-Api-Key": key } : more;
}

export type Query = Record<string, string | number | boolean | null | undefined>;

export interface Options {
  /** Sent as JSON, or as it is where `type` names what it is. */
  body?: unknown;
  type?: string;
  query?: Query;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** The URL of a path of the API, such as `api/functions`. */
export function urlOf(path: string, query: Query = {}): URL {
  const url = new URL(path, root());
  for (const [name, value] of Object.entries(query)) {
    if (value != null) url.searchParams.set(name, String(value));
  }
  return url;
}

/** Sends a request and gives back its response. Throws `Refused` for every other than a good one. */
export async function send(method: string, path: string, options: Options = {}): Promise<Response> {
  const { body, type, query, headers, signal } = options;
  const kind = type ?? (body === undefined ? null : "application/json");
  const own: Record<string, string> = kind ? { ...headers, "Content-Type": kind } : { ...headers };
  let response: Response;
  try {
    response = await fetch(urlOf(path, query), {
      method,
      signal: signal ?? null,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      headers: withKey(own),
      body: body === undefined ? null : type ? body as BodyInit : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, { error: "The server cannot be reached." });
  }
  if (!response.ok) throw await refusalOf(response);
  return response;
}

/** What a response that is no good one says. A 401 brings the sign-in screen. */
export async function refusalOf(response: Response): Promise<Refused> {
  if (response.status === 401) needsKey.value = true;
  return new Refused(response.status, json(await response.text()) as ErrorBody | null);
}

/** What a response holds; null where it has no JSON, such as a 204 or the page of a proxy. */
function json(text: string): unknown {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

/** Sends a request and gives back the JSON that comes. */
export async function call<T>(method: string, path: string, options: Options = {}): Promise<T> {
  return json(await (await send(method, path, options)).text()) as T;
}

export const get = <T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> =>
  call<T>("GET", path, { ...(query && { query }), ...(signal && { signal }) });

/** All pages of a list, each as it comes. */
export async function* pages<T extends { next_cursor?: string | null }>(
  path: string,
  query: Query = {},
  signal?: AbortSignal,
): AsyncGenerator<T> {
  let cursor: string | null | undefined = null;
  do {
    const page: T = await get<T>(path, { ...query, cursor }, signal);
    yield page;
    cursor = page.next_cursor;
  } while (cursor);
}
