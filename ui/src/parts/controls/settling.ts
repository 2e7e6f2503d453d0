// Ignores clicks until shortly after the first one's result is visible, since another button may
// have appeared under the pointer.
import { type ReadonlySignal, signal } from "@preact/signals";
import { useMemo } from "preact/hooks";

export const SETTLES_MS = 600;

/** Runs the actions of a group of buttons, one at a time. */
export class Settling {
  readonly #isBusy = signal(false);
  /** Whether an action is running, or ended less than SETTLES_MS ago. */
  readonly isBusy: ReadonlySignal<boolean> = this.#isBusy;

  /** Runs `act`, unless another action is running or has just ended. Throws what `act` throws. */
  async run(act: () => unknown): Promise<void> {
    if (this.#isBusy.peek()) return;
    this.#isBusy.value = true;
    try {
      await act();
    } finally {
      setTimeout(() => {
        this.#isBusy.value = false;
      }, SETTLES_MS);
    }
  }
}

export function useSettling(): Settling {
  return useMemo(() => new Settling(), []);
}
