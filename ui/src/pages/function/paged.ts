// A list that is fetched page by page. A refetch returns to its first page.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, type Refused } from "../../api.ts";
import { html } from "../../html.ts";
import { onRefetch } from "../../store.ts";

export interface Paged<T> {
  /** null until it is loaded. */
  all: readonly T[] | null;
  cursor: string | null;
  problem: Refused | null;
  /** Fetches the page at a cursor; without one, the first page again. */
  more: (from?: string | null) => Promise<void>;
}

const AT_ONCE = 50;

/** `name`: the list's field in the response; `inputs`: a change of one refetches the list. */
export function usePaged<T>(path: string, name: string, inputs: readonly unknown[]): Paged<T> {
  const all = useSignal<readonly T[] | null>(null);
  const cursor = useSignal<string | null>(null);
  const problem = useSignal<Refused | null>(null);
  async function more(from: string | null = null) {
    try {
      const page = await get<Record<string, unknown>>(path, { limit: AT_ONCE, cursor: from });
      const known = from === null ? [] : all.peek() ?? [];
      all.value = [...known, ...page[name] as T[]];
      cursor.value = (page.next_cursor ?? null) as string | null;
      problem.value = null;
    } catch (error) {
      problem.value = error as Refused;
    }
  }
  useEffect(() => {
    more();
    return onRefetch(() => more());
  }, inputs);
  return { all: all.value, cursor: cursor.value, problem: problem.value, more };
}

/** The button below a list that has more pages. */
export function More({ of }: { of: Pick<Paged<unknown>, "cursor" | "more"> }) {
  return of.cursor && html`<p class="inside"><button class="button" type="button"
    onClick=${() => of.more(of.cursor)}>Show more</button></p>`;
}
