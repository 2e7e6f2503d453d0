// A handler's output, with its colours.
import { useMemo } from "preact/hooks";
import { html } from "../../html.ts";
import type { Piece } from "../text/ansi.ts";
import { count } from "../text/format.ts";
import { layOut } from "../text/output_text.ts";

/** A colour that a handler requested, adjusted so that it is legible on the background. */
function readable(color: string): string {
  const held = (which: string) => `oklch(from ${color} ${which} c h)`;
  return `light-dark(${held("min(l, .5)")}, ${held("max(l, .76)")})`;
}

/** The colours of a piece that have no class. */
export function lookOf({ name, color, background }: Piece): Record<string, string> | undefined {
  if (!color && !background) return undefined;
  const hasGround = background !== null || /bg/.test(name);
  return {
    ...(color && { color: hasGround || color.startsWith("var(") ? color : readable(color) }),
    ...(background && { background }),
  };
}

/** `label`: its name, such as "Output"; `most`: the maximum lines shown. */
export function Output(
  { text, label, isError = false, most = 2000 }: {
    text: string;
    label: string;
    isError?: boolean;
    most?: number;
  },
) {
  const all = useMemo(() => layOut(text).rows, [text]);
  return html`
    <pre class=${`output ${isError ? "err" : ""}`} tabindex="0" role="region"
      aria-label=${label}>${all.slice(0, most).map(({ pieces }, n) =>
        html`<div key=${n}>${
          pieces.map((piece) =>
            html`<span class=${piece.name} style=${lookOf(piece)}>${piece.text}</span>`
          )
        }</div>`
      )}${all.length > most &&
        html`<div class="muted">… and ${count(all.length - most)} more lines</div>`}</pre>
  `;
}
