// A list with only its visible rows in the document. All rows have the same height (--row), so the
// position of each can be computed. The list scrolls with the page.
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { html } from "../../html.ts";

const BEYOND = 6; // extra rows above and below the visible ones
const STEPS: Record<string, number> = {
  ArrowDown: 1,
  j: 1,
  ArrowUp: -1,
  k: -1,
  PageDown: 10,
  PageUp: -10,
  Home: -Infinity,
  End: Infinity,
};
const TOP_BARS_PX = 92; // height of the fixed bars above the rows

/** The first row to draw, and the one after the last. `top`: pixels of the list above the visible part. */
export function windowOf(
  size: number,
  top: number,
  height: number,
  row: number,
): { from: number; to: number } {
  const from = Math.max(0, Math.min(size, Math.floor(top / row) - BEYOND));
  return { from, to: Math.max(from, Math.min(size, Math.ceil((top + height) / row) + BEYOND)) };
}

export interface Column {
  name: string;
  /** In the format of grid-template-columns. */
  width: string;
  /** `roomy`: hidden on tablets; `wide`: hidden on phones. */
  class?: string;
  /** The sort key that a click on the column's header selects. */
  sort?: string;
}

export interface ListProps<T> {
  /** A description of the rows, for screen readers. */
  label: string;
  columns: Column[];
  items: readonly T[];
  keyOf: (item: T) => string;
  /** The cells of a row. The row's first link has this tabindex, so that the keyboard reaches
   * it.
   */
  cells: (item: T, tabindex: 0 | -1) => VNode;
  sorted?: { by: string; isDown: boolean };
  onSort?: (by: string) => void;
  /** Called when the last rows become visible, for a list that is fetched while scrolling. */
  onEnd?: () => void;
  /** Whether more rows may follow. */
  isOpen?: boolean;
}

/** The widths of all columns, and those of the columns on a tablet, where the first one may
 * shrink.
 */
export function widthsOf(columns: readonly Column[]): Record<string, string> {
  const kept = columns.filter((column) => !column.class?.includes("roomy")).map((column) =>
    column.width
  );
  return {
    "--columns": columns.map((column) => column.width).join(" "),
    "--columns-of-tablet": ["minmax(8rem, 1.5fr)", ...kept.slice(1)].join(" "),
  };
}

export function List<T>(props: ListProps<T>) {
  const { label, columns, items, keyOf, cells, onEnd, isOpen = false } = props;
  const body = useRef<HTMLDivElement>(null);
  const sight = useSignal({ top: 0, height: 900, row: 52 });
  const focused = useSignal(0);
  useEffect(() => {
    const look = () => {
      if (!body.current) return;
      const row = parseFloat(getComputedStyle(body.current).getPropertyValue("--row"));
      const top = -body.current.getBoundingClientRect().top;
      sight.value = { top, height: innerHeight, row };
    };
    look();
    addEventListener("scroll", look, { passive: true });
    addEventListener("resize", look);
    return () => {
      removeEventListener("scroll", look);
      removeEventListener("resize", look);
    };
  }, []);
  const { top, height, row } = sight.value;
  const { from, to } = windowOf(items.length, top, height, row);
  const current = Math.min(focused.value, items.length - 1);
  const isAtEnd = to === items.length;
  useEffect(() => {
    if (isAtEnd) onEnd?.();
  }, [isAtEnd, items.length]);

  function keys(event: KeyboardEvent) {
    const step = STEPS[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const n = Math.max(0, Math.min(items.length - 1, current + step));
    focused.value = n;
    const box = body.current;
    if (!box) return;
    const at = box.getBoundingClientRect().top + n * row;
    if (at < TOP_BARS_PX) scrollBy(0, at - TOP_BARS_PX);
    else if (at + row > innerHeight) scrollBy(0, at + row - innerHeight);
    requestAnimationFrame(() =>
      box.querySelector<HTMLElement>(`[data-n="${n}"] a`)?.focus({ preventScroll: true })
    );
  }
  function entered(event: FocusEvent) {
    const at = (event.target as HTMLElement).closest<HTMLElement>("[data-n]")?.dataset.n;
    if (at !== undefined) focused.value = Number(at);
  }
  return html`
    <div class="card list" role="table" aria-label=${label}
      aria-rowcount=${isOpen ? -1 : items.length + 1} style=${widthsOf(columns)}>
      <div role="rowgroup" class="heads">
        <div role="row" class="head" aria-rowindex="1">${columns.map((column) =>
          html`<${Head} ...${props} column=${column} key=${column.name} />`
        )}</div>
      </div>
      <div role="rowgroup" class="body" ref=${body} onKeyDown=${keys} onFocusIn=${entered}
        style=${{ height: `calc(${items.length} * var(--row))` }}>${items.slice(from, to).map(
          (item, k) => {
            const n = from + k;
            return html`
              <div role="row" aria-rowindex=${n + 2} data-n=${n} key=${keyOf(item)}
                style=${{ transform: `translateY(calc(${n} * var(--row)))` }}>${cells(
                  item,
                  n === current ? 0 : -1,
                )}</div>
            `;
          },
        )}</div>
    </div>
  `;
}

function Head<T>({ column, sorted, onSort }: ListProps<T> & { column: Column }) {
  const isSorted = column.sort !== undefined && sorted?.by === column.sort;
  const way = isSorted ? (sorted.isDown ? "descending" : "ascending") : null;
  const arrow = isSorted ? (sorted.isDown ? " ↓" : " ↑") : "";
  return html`<span role="columnheader" class=${column.class ?? ""} aria-sort=${way}>${
    column.sort
      ? html`<button type="button" onClick=${() =>
        onSort?.(column.sort as string)}>${column.name}${arrow}</button>`
      : column.name
  }</span>`;
}
