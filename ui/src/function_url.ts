// The settings of a function's URL, loaded only if it has one, and its address as seen from this page.
import { get, root, send } from "./api.ts";
import type { FunctionUrl } from "./wire.ts";

/** The URL's settings; null: the function has no URL. */
export async function fetchUrl(id: string, signal: AbortSignal): Promise<FunctionUrl | null> {
  const path = `api/functions/${encodeURIComponent(id)}`;
  const { headers } = await send("GET", path, { signal });
  return headers.has("x-function-url") ? await get<FunctionUrl>(`${path}/url`, {}, signal) : null;
}

/** Its address as seen from this page. */
export function addressOf({ path, host }: FunctionUrl): string {
  const base = root();
  return host === null ? new URL(path.slice(1), base).href : `${base.protocol}//${host}${path}`;
}
