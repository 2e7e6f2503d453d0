// Invocations as bars and latency as lines, below each other on the same time axis. SVG, because
// its colours follow the theme, it has a description for screen readers, and tests can count bars.
import { html } from "../../html.ts";
import { count, counted, duration } from "../text/format.ts";
import { useMoments } from "./moments.ts";
import { marks, roundUp, secondsBetween } from "./scale.ts";

/** One value for each step; null if nothing was measured. */
export interface Series {
  /** Unix seconds at which each step begins. */
  at: readonly number[];
  calls: readonly number[];
  failed: readonly number[];
  cold: readonly number[];
  p50: readonly (number | null)[];
  p99: readonly (number | null)[];
}

const LEFT = 56, RIGHT = 12, TOP = 10, GAP = 26, CALLS = 64, LATENCY = 110, FOOT = 24;
const HEIGHT = TOP + CALLS + GAP + LATENCY + FOOT;
const BOTTOM = TOP + CALLS, FLOOR = HEIGHT - FOOT;
const LABEL_PX = 90;
const ALONE_PX = 14; // length of a value without neighbours: two dashes, or a short line, as in the legend

/** Seconds since 1970 in the user's time zone, so that midnight is a multiple of a day. */
const local = (unix: number): number => unix - 60 * new Date(unix * 1000).getTimezoneOffset();

const DAY_S = 86_400;

function day(unix: number): string {
  return new Date(unix * 1000).toLocaleDateString("en-GB", { weekday: "short", day: "numeric" });
}

function clock(unix: number, seconds = false): string {
  const at = new Date(unix * 1000);
  const two = (n: number) => String(n).padStart(2, "0");
  const hours = `${two(at.getHours())}:${two(at.getMinutes())}`;
  return seconds ? `${hours}:${two(at.getSeconds())}` : hours;
}

/** Runs of points without a gap in the data, each of which is drawn as one line. */
export function runs(values: readonly (number | null)[]): [n: number, value: number][][] {
  const found: [number, number][][] = [];
  let run: [number, number][] | null = null;
  for (const [n, value] of values.entries()) {
    if (value === null) run = null;
    else if (run) run.push([n, value]);
    else found.push(run = [[n, value]]);
  }
  return found;
}

/** The values at one time, in words. */
export function words(data: Series, n: number): string {
  const said = [counted(data.calls[n] ?? 0, "call")];
  if (data.failed[n]) said.push(`${data.failed[n]} failed`);
  if (data.cold[n]) said.push(`${data.cold[n]} cold`);
  const [p50, p99] = [data.p50[n], data.p99[n]];
  if (p50 != null) said.push(`p50 ${duration(p50)}`, `p99 ${duration(p99)}`);
  const at = data.at[n] ?? 0;
  const isLong = (data.at.at(-1) ?? 0) - (data.at[0] ?? 0) >= DAY_S;
  const moment = isLong ? `${day(at)} ${clock(at)}` : clock(at, true);
  return `${moment}: ${said.join(", ")}`;
}

/** The ends of the dash for a value without neighbours, within the axes. */
export function dashAt(x: number, width: number): [from: number, to: number] {
  const from = Math.max(LEFT, Math.min(x - ALONE_PX / 2, width - RIGHT - ALONE_PX));
  return [from, from + ALONE_PX];
}

function Trace({ values, name, width, x, y }: {
  values: readonly (number | null)[];
  name: string;
  width: number;
  x: (n: number) => number;
  y: (value: number) => number;
}) {
  return html`<g>${
    runs(values).map((run) => {
      const points = run.map(([n, v]) => `${x(n).toFixed(1)},${y(v).toFixed(1)}`);
      const [alone] = run;
      if (run.length === 1 && alone) {
        const [from, to] = dashAt(x(alone[0]), width), at = y(alone[1]);
        return html`<line class=${`trace ${name}`} x1=${from} x2=${to} y1=${at} y2=${at} />`;
      }
      return html`<polyline class=${`trace ${name}`} points=${points.join(" ")} />`;
    })
  }</g>`;
}

function Bars({ values, name, x, step, most }: {
  values: readonly number[];
  name: string;
  x: (n: number) => number;
  step: number;
  most: number;
}) {
  const thick = Math.max(1, Math.min(12, step - 2));
  return html`<g>${
    values.map((v, n) => {
      const high = Math.max(1, CALLS * v / most);
      return v > 0 && html`
        <rect class=${name} x=${x(n) - thick / 2} width=${thick}
          y=${BOTTOM - high} height=${high} key=${n} />
      `;
    })
  }</g>`;
}

function Axes({ data, width, x, y, most, top }: {
  data: Series;
  width: number;
  x: (n: number) => number;
  y: (value: number) => number;
  most: number;
  top: number;
}) {
  const at = data.at;
  const span = (at[at.length - 1] ?? 0) - (at[0] ?? 0);
  const every = secondsBetween(span, width / LABEL_PX);
  const rule = (v: number) => Math.round(y(v)) + 0.5;
  return html`<g><text x=${LEFT - 8} y=${TOP + 9} class="tick end">${count(most)}</text>
    <text x=${LEFT - 8} y=${BOTTOM + 1} class="tick end">0</text>
    <line class="rule" x1=${LEFT} x2=${width - RIGHT} y1=${BOTTOM + 0.5} y2=${BOTTOM + 0.5} />${
    marks(top, 2).map((v) =>
      html`
        <line class="rule" x1=${LEFT} x2=${width - RIGHT} y1=${rule(v)} y2=${rule(v)} />
        <text
          x=${LEFT - 8} y=${y(v) + 4} class="tick end">${v ? duration(v) : "0"}</text>
      `
    )
  }${
    at.map((unix, n) =>
      local(unix) % every === 0 && x(n) < width - 24 &&
      html`<text x=${x(n)} y=${HEIGHT - 6} class="tick middle">${
        every < DAY_S ? clock(unix) : day(unix)
      }</text>`
    )
  }</g>`;
}

export function Chart({ data }: { data: Series }) {
  const steps = data.at.length;
  const { host, w, step, x, n, handlers } = useMoments(steps, LEFT, RIGHT);
  const most = roundUp(Math.max(5, ...data.calls));
  const top = roundUp(Math.max(1, ...data.p99.map((value) => value ?? 0)));
  const y = (value: number) => FLOOR - LATENCY * value / top;
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  const label = `${counted(sum(data.calls), "call")}, ${count(sum(data.failed))} failed. ` +
    "Use the arrow keys to read the values at each time.";

  return html`<div class="chart" ref=${host} style=${{ height: `${HEIGHT}px` }}>${
    w > 0 && html`
      <svg width=${w} height=${HEIGHT} role="img" tabindex="0" aria-label=${label}
        ...${handlers}>${n !== null &&
          html`<rect class="chosen" x=${
            LEFT + step * n
          } width=${step} y="0" height=${FLOOR} />`}<${Axes} ...${{
          data,
          width: w,
          x,
          y,
          most,
          top,
        }} />
            <${Bars} values=${data.calls} name="calls" ...${{ x, step, most }} />
            <${Bars} values=${data.failed} name="bad" ...${{ x, step, most }} />${data.cold.map((
              v,
              k,
            ) =>
              v > 0 &&
              html`<circle class="cold-mark" cx=${x(k)} cy=${BOTTOM + 7} r="2.5" key=${k} />`
            )}<${Trace} values=${data.p99} name="p99" ...${{ width: w, x, y }} />
            <${Trace} values=${data.p50} name="p50" ...${{ width: w, x, y }} /></svg>
    `
  }${n !== null && html`<${Tip} data=${data} n=${n} x=${x(n)} step=${step} width=${w} />`}
    <span class="hidden-visually" aria-live="polite">${
    n === null ? "" : words(data, n)
  }</span></div>`;
}

/** The box beside the chosen time, on the side that has room. */
function Tip({ data, n, x, step, width }: {
  data: Series;
  n: number;
  x: number;
  step: number;
  width: number;
}) {
  const place = n < data.at.length / 2
    ? { left: `${x + step}px` }
    : { right: `${width - x + step}px` };
  const [head, ...said] = words(data, n).split(/: |, /);
  return html`<div class="tip num" style=${place} aria-hidden="true"><b>${head}</b>${
    said.map((text) => html`<span key=${text}>${text}</span>`)
  }</div>`;
}

/** The legend of the chart. */
export function ChartLegend() {
  const keys = [["calls", "calls"], ["bad", "failed"], ["start", "cold start"], ["p50", "p50"], [
    "p99",
    "p99",
  ]];
  return html`<span class="legend" aria-hidden="true">${
    keys.map(([name, said]) => html`<span class=${`key ${name}`} key=${name}>${said}</span>`)
  }</span>`;
}
