// What a handler wrote, in its colours.
import { useMemo } from "preact/hooks";
import { html } from "../html.ts";
import { lines, type Piece } from "./ansi.ts";
import { count } from "./format.ts";

const PIECES_OF_A_BLOCK = 64;

/** A colour that a handler asked for, as light or dark as it must be to be read on the ground. */
function readable(color: string): string {
  const held = (which: string) => `oklch(from ${color} ${which} c h)`;
  return `light-dark(${held("min(l, .5)")}, ${held("max(l, .76)")})`;
}

function look({ name, color, background }: Piece): Record<string, string> | undefined {
  if (!color && !background) return undefined;
  const hasGround = background !== null || /bg/.test(name);
  return {
    ...(color && { color: hasGround || color.startsWith("var(") ? color : readable(color) }),
    ...(background && { background }),
  };
}

/** `label`: what it is, such as "Output"; `most`: how many lines are shown. */
export function Output(
  { text, label, isError = false, most = 2000 }: {
    text: string;
    label: string;
    isError?: boolean;
    most?: number;
  },
) {
  // A line of a megabyte is laid out as blocks of its pieces: as one paragraph it takes ten seconds.
  const all = useMemo(
    () =>
      lines(text).flatMap((pieces) =>
        pieces.length > PIECES_OF_A_BLOCK ? pieces.map((one) => [one]) : [pieces]
      ),
    [text],
  );
  return html`
    <pre class=${`output ${isError ? "err" : ""}`} tabindex="0" role="region"
      aria-label=${label}>${all.slice(0, most).map((pieces, n) =>
        html`<div key=${n}>${
          pieces.map((one) => html`<span class=${one.name} style=${look(one)}>${one.text}</span>`)
        }</div>`
      )}${all.length > most &&
        html`<div class="muted">… and ${count(all.length - most)} more lines</div>`}</pre>
  `;
}
