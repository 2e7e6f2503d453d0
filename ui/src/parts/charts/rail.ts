// Shares of a whole, drawn to scale, such as the used part of a limit, or memory by instance.
import { html } from "../../html.ts";

export interface Part {
  /** Selects the fill of a part. */
  kind: "busy" | "ready" | "warming" | "stock" | "other" | "used" | "full";
  size: number;
  title?: string;
}

/** `whole`: the maximum sum of all parts; `said`: a description in words. */
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
