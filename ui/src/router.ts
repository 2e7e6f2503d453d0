// Hash routes: they work below any path that a proxy adds.
import { computed, signal } from "@preact/signals";

export interface Route {
  /** The parts of the path, decoded. */
  parts: string[];
  query: URLSearchParams;
}

export function parse(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#?\/?/, "").split("?", 2);
  const parts = path.split("/").filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { parts, query: new URLSearchParams(query) };
}

/** The parameters that `pattern`, such as `functions/:id`, finds in a path; null if it does not match. */
export function match(pattern: string, parts: string[]): Record<string, string> | null {
  const wanted = pattern.split("/").filter(Boolean);
  if (wanted.length !== parts.length) return null;
  const found: Record<string, string> = {};
  for (const [n, segment] of wanted.entries()) {
    const part = parts[n] ?? "";
    if (segment.startsWith(":")) found[segment.slice(1)] = part;
    else if (segment !== part) return null;
  }
  return found;
}

/** A link to a page: its parts are encoded, empty parameters omitted. */
export function href(parts: string[], query: Record<string, string | number | null> = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== "") search.set(name, String(value));
  }
  return `#/${parts.map(encodeURIComponent).join("/")}${search.size ? `?${search}` : ""}`;
}

/** The present route, and its path as text, which does not change with the query. */
export const route = signal<Route>(parse(globalThis.location?.hash ?? ""));
export const path = computed(() => route.value.parts.join("/"));

/** Opens another page, as a link does. */
export function go(to: string): void {
  if (to === location.hash) route.value = parse(to); // the address was already set by `stand`
  else location.hash = to;
}

/** Replaces the address by that of another page without leaving this page; a reload opens the other
 * page.
 */
export function stand(to: string): void {
  history.replaceState(null, "", to);
}

/** Stores the state of a page, such as a filter, in its address; neither page nor history changes. */
export function note(query: Record<string, string | number | null>): void {
  const { parts } = route.peek();
  // The address may already be that of another page, whose event has not arrived yet.
  if (parse(location.hash).parts.join("/") !== parts.join("/")) return;
  const to = href(parts, query);
  if (to !== location.hash) history.replaceState(null, "", to);
}

export function listen(): void {
  addEventListener("hashchange", () => {
    route.value = parse(location.hash);
  });
  // A link to the present address does not change the hash.
  addEventListener("click", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const to = (event.target as Element).closest("a")?.getAttribute("href");
    if (to && to === location.hash) route.value = parse(to);
  });
}
