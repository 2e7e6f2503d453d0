// Subscribes to the events of one function.
import { useEffect, useRef } from "preact/hooks";
import { type Happened, onEvent } from "./store.ts";

/** Calls `act` for events of these types of a function: at once, then at most once per interval
 * while events continue. Each call of `act` finishes before the next one.
 */
export function useEvents(id: string, types: RegExp, everyMs: number, act: () => unknown): void {
  const hear = useRef(act);
  hear.current = act;
  useEffect(() => {
    let waiting: ReturnType<typeof setTimeout> | undefined;
    let isOwed = false;
    let isOver = false;
    function begin() {
      isOwed = false;
      const done = hear.current();
      waiting = setTimeout(async () => {
        await done;
        waiting = undefined;
        if (isOwed && !isOver) begin();
      }, everyMs);
    }
    const end = onEvent((event: Happened) => {
      if (event.function_id !== id || !types.test(event.type)) return;
      if (waiting === undefined) begin();
      else isOwed = true;
    });
    return () => {
      isOver = true;
      end();
      clearTimeout(waiting);
    };
  }, [id]);
}
