// A viewer for one stream of an invocation's output, also while it is being written, with search
// and copy and, afterwards, download.
import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { hasBytes, isBinary } from "../../hex.ts";
import { html } from "../../html.ts";
import { download } from "../controls/download.ts";
import { bytes, count } from "../text/format.ts";
import { HexOutput } from "../text/hex.ts";
import { lookOf } from "./output.ts";
import { findAll, layOut, marked, type OutputText, type Row, rowAt } from "../text/output_text.ts";
import { toast, toastError } from "../controls/toast.ts";

const ROWS_SHOWN = 1000;
const NEAR_END_PX = 40;

export interface OutputReaderProps {
  /** stdout or stderr. */
  stream: "stdout" | "stderr";
  title: string;
  text: string;
  /** Whether the invocation failed. */
  isError?: boolean;
  /** Whether more output may come. Then the end of the output stays visible, unless the user
   * scrolls up.
   */
  isLive: boolean;
  /** The path of the invocation, and the beginning of the name of a file with its output. */
  path: string;
  fileName: string;
}

function Line({ row, places, length, current }: {
  row: Row;
  places: readonly number[];
  length: number;
  current: number | undefined;
}) {
  return html`<div>${
    marked(row, places, length, current).map((piece) => {
      const span = html`<span class=${piece.name} style=${lookOf(piece)}>${piece.text}</span>`;
      return piece.mark ? html`<mark class=${piece.mark}>${span}</mark>` : span;
    })
  }</div>`;
}

/** The rows to draw: those from `from` on; null: the last ones. */
function windowOf(whole: OutputText, from: number | null): [number, number] {
  const last = Math.max(0, whole.rows.length - ROWS_SHOWN);
  const start = Math.min(from ?? last, last);
  return [start, Math.min(whole.rows.length, start + ROWS_SHOWN)];
}

export function OutputReader(props: OutputReaderProps) {
  const { title, text, isLive, isError = false } = props;
  const whole = useMemo(() => layOut(text), [text]);
  const query = useSignal("");
  const nth = useSignal(0);
  const from = useSignal<number | null>(isLive ? null : 0);
  const box = useRef<HTMLPreElement>(null);
  const isAtEnd = useRef(isLive);
  const places = useMemo(() => findAll(whole, query.value), [whole, query.value]);
  const current = places[Math.min(nth.value, places.length - 1)];
  useEffect(() => {
    if (!isLive) from.value ??= 0;
  }, [isLive]);
  useLayoutEffect(() => {
    const at = box.current;
    if (at && isLive && isAtEnd.current) at.scrollTop = at.scrollHeight;
  }, [text, isLive]);
  useLayoutEffect(() => {
    if (current === undefined) return;
    const row = rowAt(whole.rows, current);
    const [start, end] = windowOf(whole, from.peek());
    if (row < start || row >= end) from.value = Math.max(0, row - ROWS_SHOWN / 2);
    requestAnimationFrame(() =>
      box.current?.querySelector("mark.current")?.scrollIntoView({ block: "nearest" })
    );
  }, [current, query.value]);
  const wanted = useSignal<boolean | null>(null);
  const isNoText = !isLive && hasBytes(text);
  const isHex = isNoText && (wanted.value ?? isBinary(text));
  const [start, end] = isHex ? [0, whole.rows.length] : windowOf(whole, from.value);
  const step = (by: number) => {
    if (places.length) nth.value = (nth.value + by + places.length) % places.length;
  };
  return html`<section class="card after"><header class="reader">
      <h2>${title}</h2><span class="small muted num">${
    text && !isNoText && bytes(sizeOf(text))
  }</span>
      ${
    isNoText && html`
      <span class="chips" role="group" aria-label="Shown as">${[true, false].map((hex) =>
        html`
          <button class="chip" type="button" key=${hex} aria-pressed=${hex === isHex}
            onClick=${() => {
              wanted.value = hex;
            }}>${hex ? "hex" : "text"}</button>
        `
      )}</span>
    `
  }
      ${
    text && !isHex &&
    html`
      <${Find} query=${query} nth=${nth} found=${places.length} step=${step}
        title=${title} />
    `
  }${text && html`<${Keep} ...${props} />`}</header>
    ${
    start > 0 && html`<${More} rows=${start} said="earlier" onPress=${() => {
      from.value = Math.max(0, start - ROWS_SHOWN);
    }} />`
  }
    ${
    isHex
      ? html`<${HexOutput} path=${props.path} stream=${props.stream} label=${title} />`
      : text
      ? html`
        <pre class=${`output tall ${isError ? "err" : ""}`} ref=${box} tabindex="0"
          role="region" aria-label=${title} onScroll=${() => {
            const at = box.current;
            if (at) {
              isAtEnd.current = at.scrollHeight - at.scrollTop - at.clientHeight < NEAR_END_PX;
            }
          }}>${whole.rows.slice(start, end).map((row) =>
            html`
              <${Line} row=${row} places=${places} length=${query.value.length} current=${current}
                key=${row.start} />
            `
          )}</pre>
      `
      : html`<p class="empty small">${isLive ? "Nothing yet." : "Nothing."}</p>`
  }
    ${
    end < whole.rows.length &&
    html`<${More} rows=${whole.rows.length - end} said="later" onPress=${() => {
      from.value = start + ROWS_SHOWN;
    }} />`
  }</section>`;
}

const sizeOf = (text: string): number => new Blob([text]).size;

function More({ rows, said, onPress }: { rows: number; said: string; onPress: () => void }) {
  return html`
    <button class="more" type="button"
      onClick=${onPress}>Show ${said} lines, of ${count(rows)}</button>
  `;
}

function Find(
  { query, nth, found, step, title }: {
    query: { value: string };
    nth: { value: number };
    found: number;
    step: (by: number) => void;
    title: string;
  },
) {
  const at = Math.min(nth.value, found - 1) + 1;
  const said = query.value === "" ? "" : found === 0 ? "none" : `${count(at)} of ${count(found)}`;
  return html`<span class="find push"><input type="search" class="text" value=${query.value}
      aria-label=${`Find in ${title.toLowerCase()}`} placeholder="Find" autocomplete="off"
      spellcheck=${false} onInput=${(event: InputEvent) => {
    query.value = (event.target as HTMLInputElement).value;
    nth.value = 0;
  }} onKeyDown=${(event: KeyboardEvent) => {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") query.value = "";
  }} /><span class="small muted num" role="status">${said}</span>
    ${
    found > 1 && html`
      <button class="button icon" type="button" aria-label="Previous"
        onClick=${() =>
          step(-1)}>↑</button><button class="button icon" type="button" aria-label="Next"
        onClick=${() => step(1)}>↓</button>
    `
  }</span>`;
}

function Keep({ stream, text, path, fileName, isLive }: OutputReaderProps) {
  const copy = () =>
    navigator.clipboard.writeText(text).then(() => toast("The output is copied."), toastError);
  const save = () =>
    download(`${path}/output`, { stream }, `${fileName}-${stream}.txt`).catch(toastError);
  return html`<button class="button" type="button" onClick=${copy}>Copy</button>
    ${!isLive && html`<button class="button" type="button" onClick=${save}>Download</button>`}`;
}
