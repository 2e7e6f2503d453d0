// Scrolls until newly shown content is visible, without moving the focus.

const TOP_BAR_PX = 48, MARGIN_PX = 16;
const GROWS_MS = 1_500, MOVES = ["wheel", "touchmove", "keydown"];
const STAYS = ".stays, .saving"; // sticky bars of a page, below the top bar

/** The box of an element in the window. */
interface Box {
  top: number;
  bottom: number;
}

/** How far to scroll so that a box is visible in `sight`, or its beginning with as much as fits; 0
 * if it is visible already.
 */
export function toReveal(box: Box, sight: Box): number {
  const toTop = box.top - sight.top;
  return toTop < 0 ? toTop : Math.min(toTop, Math.max(0, box.bottom - sight.bottom));
}

/** Scrolls until `from` is visible, with as much as fits of what follows it, up to the end of `to`. */
export function reveal(from: Element | null, to: Element | null = from): void {
  if (!from || !to) return;
  const box = { top: from.getBoundingClientRect().top, bottom: to.getBoundingClientRect().bottom };
  const bar = document.querySelector<HTMLElement>(STAYS)?.offsetHeight ?? 0;
  const sight = { top: TOP_BAR_PX + bar + MARGIN_PX, bottom: innerHeight - MARGIN_PX };
  const top = toReveal(box, sight);
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (top !== 0) scrollBy({ top, behavior: isStill ? "instant" : "smooth" });
}

/** As `reveal`, and again if the content or the page above it grows within `GROWS_MS`, until the
 * user scrolls or types. Returns a function that stops this.
 */
export function revealGrowing(from: Element | null, to: Element | null = from): () => void {
  const watch = new ResizeObserver(() => reveal(from, to));
  const end = () => {
    watch.disconnect();
    clearTimeout(ends);
    for (const name of MOVES) removeEventListener(name, end);
  };
  const ends = setTimeout(end, GROWS_MS);
  for (const name of MOVES) addEventListener(name, end, { passive: true });
  if (to) watch.observe(to);
  watch.observe(document.body);
  return end;
}

export function isInSight(element: Element | null): boolean {
  const box = element?.getBoundingClientRect();
  return box !== undefined && box.top >= 0 && box.bottom <= innerHeight;
}
