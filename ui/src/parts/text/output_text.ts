// A handler's output as rows to draw, and search results in it.
import { lines, type Piece } from "./ansi.ts";

export interface Row {
  pieces: Piece[];
  /** The position of its start in the text. */
  start: number;
}

export interface OutputText {
  rows: Row[];
  /** The readable text of all rows, with line ends. */
  text: string;
}

export interface MarkedPiece extends Piece {
  mark: "" | "found" | "current";
}

// A line of a megabyte is laid out as blocks, since one paragraph would take ten seconds.
const PIECES_OF_A_ROW = 64;
const FOUND_MOST = 10_000;

export function layOut(raw: string): OutputText {
  const rows: Row[] = [];
  const texts: string[] = [];
  let at = 0;
  for (const pieces of lines(raw)) {
    const parts = pieces.length > PIECES_OF_A_ROW ? pieces.map((piece) => [piece]) : [pieces];
    for (const part of parts) {
      rows.push({ pieces: part, start: at });
      for (const { text } of part) {
        texts.push(text);
        at += text.length;
      }
    }
    texts.push("\n");
    at += 1;
  }
  return { rows, text: texts.join("") };
}

/** The positions of `query` in the text, ignoring case; at most ten thousand. */
export function findAll(whole: OutputText, query: string): number[] {
  if (query === "") return [];
  const found: number[] = [];
  const pattern = new RegExp(query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu");
  for (const match of whole.text.matchAll(pattern)) {
    found.push(match.index);
    if (found.length === FOUND_MOST) break;
  }
  return found;
}

/** The number of the row that contains a position of the text. */
export function rowAt(rows: readonly Row[], place: number): number {
  let [low, high] = [0, rows.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if ((rows[middle]?.start ?? 0) <= place) low = middle;
    else high = middle - 1;
  }
  return Math.max(0, low);
}

/** The pieces of a row, split at the start and end of each match. `places`: all matches, in order;
 * `length`: the length of each; `current`: the selected match.
 */
export function marked(
  row: Row,
  places: readonly number[],
  length: number,
  current: number | undefined,
): MarkedPiece[] {
  const cut: MarkedPiece[] = [];
  let at = row.start;
  for (const piece of row.pieces) {
    const end = at + piece.text.length;
    for (const place of placesIn(places, at - length + 1, end)) {
      const [from, to] = [Math.max(at, place), Math.min(end, place + length)];
      if (from > at) cut.push({ ...piece, text: part(piece, end, at, from), mark: "" });
      const mark = place === current ? "current" : "found";
      cut.push({ ...piece, text: part(piece, end, from, to), mark });
      at = to;
    }
    if (at < end) cut.push({ ...piece, text: part(piece, end, at, end), mark: "" });
    at = end;
  }
  return cut;
}

const part = (piece: Piece, end: number, from: number, to: number): string => {
  const start = end - piece.text.length;
  return piece.text.slice(from - start, to - start);
};

/** The matches from `from` up to but excluding `to`. */
function placesIn(places: readonly number[], from: number, to: number): readonly number[] {
  let [low, high] = [0, places.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((places[middle] ?? 0) < from) low = middle + 1;
    else high = middle;
  }
  let end = low;
  while (end < places.length && (places[end] ?? 0) < to) end++;
  return places.slice(low, end);
}
