// Command lines for a shell.
import { type Query, urlOf } from "./api.ts";

const USUAL = ["http://127.0.0.1:8080", "http://localhost:8080"];

/** The line that sets this server for `quiltfn`; null if none is needed. */
export function serverLine(): string | null {
  const address = urlOf("").href.replace(/\/$/, "");
  return USUAL.includes(address) ? null : `export QUILT_BASE_URL=${quoted(address)}`;
}

/** `text`, quoted as one word of a shell. */
export const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** The command line for an invocation: `body` as the API expects it, `isQueued` for an asynchronous one,
 * `query` for the version. The command reads the key from the same variable as `quiltfn`.
 */
export function callLine(
  id: string,
  body: unknown,
  { hasKey, isQueued, query = {} }: { hasKey: boolean; isQueued: boolean; query?: Query },
): string {
  return [
    "curl -sS",
    quoted(urlOf(`api/functions/${id}/invoke`, query).href),
    hasKey && '-H "X-Api-Key: $QUILT_API_KEY"',
    "-H 'Content-Type: application/json'",
    isQueued && "-H 'Prefer: respond-async'",
    `-d ${quoted(JSON.stringify(body))}`,
  ].filter(Boolean).join(" ");
}
