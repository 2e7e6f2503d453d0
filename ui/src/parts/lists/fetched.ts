// What a page fetches when it opens, and again after a gap and whenever it is told to.
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Refused } from "../../api.ts";
import { html } from "../../html.ts";
import { onRefetch } from "../../store.ts";

export interface Fetched<T> {
  /** null until it is there. */
  value: Signal<T | null>;
  problem: Signal<Refused | null>;
  /** Fetches it again; what is shown stays until the answer comes. */
  again: () => Promise<void>;
}

/** `inputs`: when one of them changes, what was fetched is forgotten and `ask` is called anew. */
export function useFetched<T>(
  ask: (signal: AbortSignal) => Promise<T>,
  inputs: readonly unknown[],
): Fetched<T> {
  const value = useSignal<T | null>(null);
  const problem = useSignal<Refused | null>(null);
  const asking = useRef<AbortController | null>(null);
  async function again() {
    asking.current?.abort();
    const mine = asking.current = new AbortController();
    try {
      const found = await ask(mine.signal);
      if (mine.signal.aborted) return;
      value.value = found;
      problem.value = null;
    } catch (error) {
      if (!mine.signal.aborted) problem.value = error as Refused;
    }
  }
  useEffect(() => {
    value.value = null;
    problem.value = null;
    again();
    const forget = onRefetch(again);
    return () => {
      forget();
      asking.current?.abort();
    };
  }, inputs);
  return { value, problem, again };
}

/** Asks again every so often while the page can be seen. */
export function useAgain(again: () => void, everyMs: number): void {
  useEffect(() => {
    const timer = setInterval(() => {
      if (document.visibilityState === "visible") again();
    }, everyMs);
    return () => clearInterval(timer);
  }, []);
}

/** Stands where something will be. */
export function Waiting() {
  return html`<p class="empty" aria-busy="true"><span class="hidden-visually">Loading</span>…</p>`;
}
