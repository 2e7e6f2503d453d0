// Data that a page fetches when it opens, and refetches after a gap and on request.
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Refused } from "../../api.ts";
import { html } from "../../html.ts";
import { onRefetch } from "../../store.ts";

export interface Fetched<T> {
  /** null until it is loaded. */
  value: Signal<T | null>;
  problem: Signal<Refused | null>;
  /** Refetches the data; the present value stays until the response arrives. */
  again: () => Promise<void>;
}

/** If one of the `inputs` changes, the data is dropped and `ask` is called again. */
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

/** Refetches periodically while the page is visible. */
export function useAgain(again: () => void, everyMs: number): void {
  useEffect(() => {
    const timer = setInterval(() => {
      if (document.visibilityState === "visible") again();
    }, everyMs);
    return () => clearInterval(timer);
  }, []);
}

/** A placeholder while data is loading. */
export function Waiting() {
  return html`<p class="empty" aria-busy="true"><span class="hidden-visually">Loading</span>…</p>`;
}
