// The audit page's query, and the links from its entries to the objects that they are about.
import type { Query } from "./api.ts";
import { href } from "./router.ts";

export const FILTERS = ["action", "who", "object", "since"] as const;
export type Filter = typeof FILTERS[number];
export type Wanted = Record<Filter, string>;

export const TIMES: Record<string, [said: string, seconds: number]> = {
  "1h": ["the last hour", 3600],
  "24h": ["the last 24 hours", 86_400],
  "7d": ["the last 7 days", 7 * 86_400],
  "30d": ["the last 30 days", 30 * 86_400],
};

/** The query of the route. `now`: Unix seconds. */
export function queryOf(of: Wanted, now: number): Query {
  const seconds = TIMES[of.since]?.[1];
  return {
    action: of.action || null,
    credential: of.who || null,
    object_id: of.object || null,
    from: seconds === undefined ? null : Math.floor(now - seconds),
  };
}

/** The time of an entry in Unix seconds, from its id, a UUIDv7; null for any other text. */
export function madeAt(id: string): number | null {
  const digits = /^([0-9a-f]{8})-([0-9a-f]{4})-7/.exec(id);
  return digits && Math.floor(parseInt(`${digits[1]}${digits[2]}`, 16) / 1000);
}

const OF_FUNCTIONS = new Set([
  ...["function", "async_policy", "record_policy", "dead_letters", "dead_letter", "invocation"],
  ...["delivery", "elasticity", "url", "alias"],
]);

/** The page of the object that an entry is about. `known`: existing functions by id; `name`: the
 * object's name at that time, if it is in the entry.
 */
export function placeOf(
  action: string,
  object: string | null,
  known: ReadonlyMap<string, unknown>,
  name: string | null = null,
): string | null {
  if (object === null) return null;
  const [kind = "", verb] = action.split(".");
  if (OF_FUNCTIONS.has(kind)) return known.has(object) ? href(["functions", object]) : null;
  if (kind === "key") return href(["keys"], { q: object });
  if (kind === "quota") return href(["usage"]);
  if (kind === "runtime" && verb !== "remove") return href(["runtimes", object]);
  if (kind === "schedule" && verb !== "delete") return href(["schedules", name ?? object]);
  return null;
}
