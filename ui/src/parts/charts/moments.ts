// The time steps of a chart, scaled to the page's width. One of them can be chosen.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

/** `left`, `right`: space beside the steps. `host` is for the element around the drawing.
 * `handlers` is for the drawing, where the pointer and the arrow keys choose a step.
 */
export function useMoments(count: number, left: number, right: number) {
  const host = useRef<HTMLDivElement>(null);
  const width = useSignal(0);
  const chosen = useSignal<number | null>(null);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => {
      width.value = Math.round(entry?.contentRect.width ?? 0);
    });
    if (host.current) watch.observe(host.current);
    return () => watch.disconnect();
  }, []);
  const w = width.value;
  const step = (w - left - right) / Math.max(1, count);
  const x = (n: number) => left + step * (n + 0.5);
  const n = chosen.value;
  const away = () => {
    chosen.value = null;
  };
  function point(event: PointerEvent) {
    const from = host.current?.getBoundingClientRect().left ?? 0;
    const k = Math.floor((event.clientX - from - left) / step);
    chosen.value = k >= 0 && k < count ? k : null;
  }
  function keys(event: KeyboardEvent) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") away();
    if (by === undefined) return;
    event.preventDefault();
    chosen.value = Math.max(0, Math.min(count - 1, (n ?? count) + by));
  }
  const handlers = { onPointerMove: point, onPointerLeave: away, onKeyDown: keys, onBlur: away };
  return { host, w, step, x, n, handlers };
}
