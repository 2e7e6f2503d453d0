// A button takes no second press until what the first one did is there to be seen: where the pointer is,
// another thing to press may have come meanwhile.
import { type ReadonlySignal, signal } from "@preact/signals";
import { useMemo } from "preact/hooks";

export const SETTLES_MS = 600;

/** What buttons that belong together do, one at a time. */
export class Settling {
  readonly #isBusy = signal(false);
  /** While something is done, and for SETTLES_MS after it. */
  readonly isBusy: ReadonlySignal<boolean> = this.#isBusy;

  /** Does it, unless something else is done or has just been. Throws what `act` throws. */
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
