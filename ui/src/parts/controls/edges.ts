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
    const element = row.current;
    if (!element) return;
    const look = () => {
      element.dataset.more = sidesOf(element);
    };
    const watch = new ResizeObserver(look);
    watch.observe(element);
    for (const each of element.children) watch.observe(each);
    element.addEventListener("scroll", look, { passive: true });
    return () => {
      watch.disconnect();
      element.removeEventListener("scroll", look);
    };
  }, []);
}
