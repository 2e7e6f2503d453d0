// Fades the edges of a row that is wider than the window.
import type { RefObject } from "preact";
import { useEffect } from "preact/hooks";

/** The sides at which a row continues. */
export function sidesOf(
  at: { scrollLeft: number; clientWidth: number; scrollWidth: number },
): string {
  const rest = at.scrollWidth - at.clientWidth - at.scrollLeft;
  return [at.scrollLeft > 1 && "left", rest > 1 && "right"].filter(Boolean).join(" ");
}

/** Sets the row's `data-more` to the sides at which it continues. */
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
