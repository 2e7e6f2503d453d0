// A row that may be wider than the window: it fades where it goes on.
import type { RefObject } from "preact";
import { useEffect } from "preact/hooks";

/** At which sides a row goes on. */
export function sidesOf(
  at: { scrollLeft: number; clientWidth: number; scrollWidth: number },
): string {
  const rest = at.scrollWidth - at.clientWidth - at.scrollLeft;
  return [at.scrollLeft > 1 && "left", rest > 1 && "right"].filter(Boolean).join(" ");
}

/** Says of the row, as `data-more`, at which sides it goes on. */
export function useEdges(row: RefObject<HTMLElement | null>): void {
  useEffect(() => {
    const one = row.current;
    if (!one) return;
    const look = () => {
      one.dataset.more = sidesOf(one);
    };
    const watch = new ResizeObserver(look);
    watch.observe(one);
    for (const each of one.children) watch.observe(each);
    one.addEventListener("scroll", look, { passive: true });
    return () => {
      watch.disconnect();
      one.removeEventListener("scroll", look);
    };
  }, []);
}
