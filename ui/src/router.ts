// Hash routes: they survive a proxy that serves the page below a path of its own.
import { computed, signal } from "@preact/signals";

export interface Route {
  /** The parts of the path, decoded. */
  parts: string[];
  query: URLSearchParams;
}

export function parse(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#?\/?/, "").split("?", 2);
  const parts = path.split("/").filter(Boolean).map((one) => {
    try {
      return decodeURIComponent(one);
    } catch {
      return one;
    }
  });
  return { parts, query: new URLSearchParams(query) };
}

/** The parameters that `pattern`, such as `functions/:id`, finds in a path; null if it does not fit. */
export function match(pattern: string, parts: string[]): Record<string, string> | null {
  const wanted = pattern.split("/").filter(Boolean);
  if (wanted.length !== parts.length) return null;
  const found: Record<string, string> = {};
  for (const [n, one] of wanted.entries()) {
    const part = parts[n] ?? "";
    if (one.startsWith(":")) found[one.slice(1)] = part;
    else if (one !== part) return null;
  }
  return found;
}

/** A link to a page: its parts are encoded, empty parameters are left out. */
export function href(parts: string[], query: Record<string, string | number | null> = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== "") search.set(name, String(value));
  }
  return `#/${parts.map(encodeURIComponent).join("/")}${search.size ? `?${search}` : ""}`;
}

/** Where the page is now, and the same as text, which stays equal where only the query changes. */
export const route = signal<Route>(parse(globalThis.location?.hash ?? ""));
export const path = computed(() => route.value.parts.join("/"));

/** Goes to another page, as a link does. */
export function go(to: string): void {
  if (to === location.hash) route.value = parse(to); // the address was `stand`ing there already
  else location.hash = to;
}

/** Has another page's address stand in place of this one's, which stays: reloaded, it is the other. */
export function stand(to: string): void {
  history.replaceState(null, "", to);
}

/** Notes the state of a page in its address, such as a filter; the page stays, history as well. */
export function note(query: Record<string, string | number | null>): void {
  const { parts } = route.peek();
  // The reader may be on the way to another page, which has not been heard of yet.
  if (parse(location.hash).parts.join("/") !== parts.join("/")) return;
  const to = href(parts, query);
  if (to !== location.hash) history.replaceState(null, "", to);
}

export function listen(): void {
  addEventListener("hashchange", () => {
    route.value = parse(location.hash);
  });
  // A link to the address that stands there changes no hash.
  addEventListener("click", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const to = (event.target as Element).closest("a")?.getAttribute("href");
    if (to && to === location.hash) route.value = parse(to);
  });
}
