// Lines for a shell.
import { type Query, urlOf } from "./api.ts";

const USUAL = ["http://127.0.0.1:8080", "http://localhost:8080"];

/** The line after which `quiltfn` finds this server; null: it does without. */
export function serverLine(): string | null {
  const address = urlOf("").href.replace(/\/$/, "");
  return USUAL.includes(address) ? null : `export QUILT_BASE_URL=${quoted(address)}`;
}

/** `text` as one word of a shell. */
export const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/**
 * The line that makes a call from a terminal: `body` as the API takes it, `isQueued` for one that is
 * accepted and run later, `query` which version it names. The key is taken from the variable that `quiltfn` takes it from.
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
