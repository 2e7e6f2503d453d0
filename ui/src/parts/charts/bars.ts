// Bars over time, with one frame for each value. The frames are below each other on the same time
// axis, so no frame has two scales.
import { html } from "../../html.ts";
import { useMoments } from "./moments.ts";
import { roundUp } from "./scale.ts";

export interface Frame {
  name: string;
  values: readonly number[];
  /** A part of each value, drawn from the bottom. */
  bad?: readonly number[];
  said: (value: number) => string;
}

const LEFT = 92, RIGHT = 8, HEAD = 34, HIGH = 60, FOOT = 24;
const FRAME = HEAD + HIGH;
const LABEL_PX = 72;

/** The bars that get a time label, as many as fit. */
export function labelled(count: number, width: number, fits: (n: number) => boolean): number[] {
  const all = Array.from({ length: count }, (_, n) => n).filter(fits);
  const every = Math.max(1, Math.ceil(all.length / Math.max(1, Math.floor(width / LABEL_PX))));
  return all.filter((_, k) => k % every === 0);
}

interface Drawn {
  frame: Frame;
  top: number;
  width: number;
  x: (n: number) => number;
  step: number;
}

function Drawing({ frame, top, width, x, step }: Drawn) {
  const floor = top + FRAME;
  const highest = Math.max(...frame.values, 0);
  const most = highest && roundUp(highest);
  const thick = Math.max(1, Math.min(24, step - (step > 4 ? 2 : 0.5)));
  const bar = (values: readonly number[], name: string) =>
    values.map((value, n) => {
      const high = Math.max(1, HIGH * value / most);
      return value > 0 && html`
        <rect class=${name} key=${`${name}${n}`} x=${x(n) - thick / 2} y=${floor -
          high} width=${thick}
          height=${high} />
      `;
    });
  return html`<g><text x="0" y=${top + 19} class="name">${frame.name}</text>
    ${
    most > 0 &&
    html`<text x=${LEFT - 8} y=${top + HEAD + 9} class="tick end">${frame.said(most)}</text>`
  }
    <text x=${LEFT - 8} y=${floor + 1} class="tick end">0</text>
    <line class="rule" x1=${LEFT} x2=${width - RIGHT} y1=${floor + 0.5} y2=${floor + 0.5} />
    ${bar(frame.values, "used")}${bar(frame.bad ?? [], "bad")}</g>`;
}

/** `at`: the name of each bar; `label`: the short name below it, empty for none. */
export function Frames({ frames, at, label }: {
  frames: readonly Frame[];
  at: readonly string[];
  label: (n: number) => string;
}) {
  const { host, w, step, x, n, handlers } = useMoments(at.length, LEFT, RIGHT);
  const height = frames.length * FRAME + FOOT;
  const words = (k: number) =>
    frames.map((frame) => `${frame.said(frame.values[k] ?? 0)} ${frame.name.toLowerCase()}`);
  const sums = frames.map((frame) =>
    `${frame.said(frame.values.reduce((a, b) => a + b, 0))} ${frame.name.toLowerCase()}`
  );
  const place = n !== null &&
    (n < at.length / 2
      ? { left: `${x(n) + step / 2 + 4}px` }
      : { right: `${w - x(n) + step / 2 + 4}px` });
  return html`
    <div class="chart frames" ref=${host}
      style=${{ height: `${height}px` }}>${w > 0 && html`
        <svg width=${w} height=${height} role="img" tabindex="0"
          aria-label=${`${
            sums.join(", ")
          }. Use the arrow keys to read the values at each time.`} ...${handlers}>
          ${n !== null &&
            html`<rect class="chosen" x=${LEFT + step * n} width=${step} y="0" height=${
              height - FOOT
            } />`}
          ${frames.map((frame, k) =>
            html`<${Drawing} key=${frame.name} ...${{
              frame,
              top: k * FRAME,
              width: w,
              x,
              step,
            }} />`
          )}
          ${labelled(at.length, w - LEFT, (k) => label(k) !== "").map((k) =>
            html`<text key=${k} x=${x(k)} y=${height - 6} class="tick middle">${label(k)}</text>`
          )}</svg>
      `}${place && n !== null &&
        html`<div class="tip num" style=${place} aria-hidden="true"><b>${at[n]}</b>${
          words(n).map((text) => html`<span key=${text}>${text}</span>`)
        }</div>`}<span class="hidden-visually" aria-live="polite">${n === null
        ? ""
        : `${at[n]}: ${words(n).join(", ")}`}</span></div>
  `;
}
