// A function's instances at a glance, in the order busy, ready, warming, parked, free: one cell
// each or, if there are many, one bar to scale.
import { html } from "../../html.ts";

export interface Counts {
  busy_count: number;
  ready_count: number;
  /** Includes parked ones. */
  warming_count: number;
  parked_count: number;
  /** The memory that all instances count in the budget, if the server reports it. */
  memory_mib?: number;
}

export const NO_INSTANCES: Counts = {
  busy_count: 0,
  ready_count: 0,
  warming_count: 0,
  parked_count: 0,
};
const CELLS_MOST = 12;
const BIG_CELLS_MOST = 60;
/** The description of each kind of instance. */
export const KINDS = {
  busy: "It runs an invocation, or is being cleaned after one",
  ready: "It waits for an invocation",
  warming: "It is being started",
  parked: "It takes no invocations: it is kept for a rollback, or for a fast next start",
} as const;
type Kind = keyof typeof KINDS;
const names = Object.keys(KINDS) as Kind[];

/** The number of instances of each kind; each instance has one kind. */
export function byKind(counts: Counts): Record<Kind, number> {
  const { busy_count: busy, ready_count: ready, warming_count: all, parked_count: parked } = counts;
  return { busy, ready, warming: Math.max(0, all - parked), parked };
}

/** A pool's counts in words. */
export function inWords(counts: Counts, most: number): string {
  const many = byKind(counts);
  const said = names.map((kind) => `${many[kind]} ${kind}`);
  return `${said.join(", ")}, of ${most} at most`;
}

/** `most`: the maximum of instances; `isBig`: for the function's own page. */
export function PoolBar(
  { counts, most, isBig = false }: { counts: Counts; most: number; isBig?: boolean },
) {
  const many = byKind(counts);
  const standing = names.flatMap((kind) => Array<string>(many[kind]).fill(kind));
  const all = Math.max(most, standing.length);
  const words = inWords(counts, most);
  const inner = all <= (isBig ? BIG_CELLS_MOST : CELLS_MOST)
    ? html`<span class="cells">${
      Array.from({ length: all }, (_, n) => html`<i class=${standing[n] ?? ""} key=${n} />`)
    }</span>`
    : html`<span class="rail">${
      names.filter((kind) => many[kind] > 0).map((kind) =>
        html`<i class=${kind} key=${kind} style=${{
          width: `${100 * many[kind] / all}%`,
        }} />`
      )
    }</span>`;
  return html`
    <span class=${`pool ${isBig ? "big" : ""}`} role="img" aria-label=${words} title=${words}
    >${inner}${!isBig && standing.length > 0 &&
      html`<span class="num small muted">${standing.length}</span>`}</span>
  `;
}
