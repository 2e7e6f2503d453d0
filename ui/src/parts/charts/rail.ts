// A share of a whole, drawn to scale: what is used of a limit, and who holds memory.
import { html } from "../../html.ts";

export interface Part {
  /** Sets its fill: busy, ready, warming, stock, other or used. */
  kind: "busy" | "ready" | "warming" | "stock" | "other" | "used" | "full";
  size: number;
  title?: string;
}

/** `whole`: what all parts together are at most; `said`: what it shows, in words. */
export function Rail({ parts, whole, said }: {
  parts: readonly Part[];
  whole: number;
  said: string;
}) {
  return html`<span class="rail-wide" role="img" aria-label=${said}>${
    parts.map(({ kind, size, title }, n) =>
      size > 0 &&
      html`<i class=${kind} key=${n} title=${title} style=${{ width: `${100 * size / whole}%` }} />`
    )
  }</span>`;
}
