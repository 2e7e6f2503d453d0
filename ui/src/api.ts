// Requests to the public API. The key is only in this tab's session storage.
import { signal } from "@preact/signals";
import type { ErrorBody, ErrorDetails } from "./wire.ts";

const KEY = "quiltfn.key";

/** The URL of the API: one level above the page, below any path that a proxy adds. */
export const root = (): URL => new URL("../", document.baseURI);

/** Whether the server requires a key and this tab has no valid one. */
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

/** An error response in the server's own words. `status` 0: the server could not be reached. */
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

/** `more`, plus the key if there is one. */
export function withKey(more: Record<string, string> = {}): Record<string, string> {
  const key = credential.get();
  return key ? { ...more, "X-Api-Key": key } : more;
}

export type Query = Record<string, string | number | boolean | null | undefined>;

export interface Options {
  /** Sent as JSON or, if `type` gives its content type, unchanged. */
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

/** Sends a request and returns its response. Throws `Refused` if it is not successful. */
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

/** The error in an unsuccessful response. A 401 shows the sign-in screen. */
export async function refusalOf(response: Response): Promise<Refused> {
  if (response.status === 401) needsKey.value = true;
  return new Refused(response.status, json(await response.text()) as ErrorBody | null);
}

/** The JSON in a response; null if it has none, such as a 204 or the page of a proxy. */
function json(text: string): unknown {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

/** Sends a request and returns the JSON of its response. */
export async function call<T>(method: string, path: string, options: Options = {}): Promise<T> {
  return json(await (await send(method, path, options)).text()) as T;
}

export const get = <T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> =>
  call<T>("GET", path, { ...(query && { query }), ...(signal && { signal }) });

/** Yields all pages of a list as they arrive. */
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
