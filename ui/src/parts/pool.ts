// A function's instances at a glance: a cell each, in the order busy, ready, warming, free.
import { html } from "../html.ts";

export interface Counts {
  busy_count: number;
  ready_count: number;
  warming_count: number;
}

export const NO_INSTANCES: Counts = { busy_count: 0, ready_count: 0, warming_count: 0 };
const CELLS_MOST = 12;
const BIG_CELLS_MOST = 60;
const KINDS = ["busy", "ready", "warming"] as const;

/** What a pool says in words. */
export function inWords(counts: Counts, most: number): string {
  const said = KINDS.map((kind) => `${counts[`${kind}_count`]} ${kind}`);
  return `${said.join(", ")}, of ${most} at most`;
}

/** `most`: the largest number of instances; `isBig`: as on the function's own page. */
export function PoolBar(
  { counts, most, isBig = false }: { counts: Counts; most: number; isBig?: boolean },
) {
  const standing = KINDS.flatMap((kind) => Array<string>(counts[`${kind}_count`]).fill(kind));
  const all = Math.max(most, standing.length);
  const words = inWords(counts, most);
  const inner = all <= (isBig ? BIG_CELLS_MOST : CELLS_MOST)
    ? html`<span class="cells">${
      Array.from({ length: all }, (_, n) => html`<i class=${standing[n] ?? ""} key=${n} />`)
    }</span>`
    : html`<span class="rail">${
      KINDS.filter((kind) => counts[`${kind}_count`] > 0).map((kind) =>
        html`<i class=${kind} key=${kind} style=${{
          width: `${100 * counts[`${kind}_count`] / all}%`,
        }} />`
      )
    }</span>`;
  return html`
    <span class=${`pool ${isBig ? "big" : ""}`} role="img" aria-label=${words} title=${words}
    >${inner}${!isBig && standing.length > 0 &&
      html`<span class="num small muted">${standing.length}</span>`}</span>
  `;
}
