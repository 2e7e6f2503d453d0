// A handler's output as pieces of text: colours become class names, other escape sequences are
// removed, and other characters that a terminal would interpret or hide are shown by name. The
// output is untrusted and is never markup.

export interface Piece {
  text: string;
  /** Class names; each of the sixteen colours has one (`fg1`, `bg4`). */
  name: string;
  /** Any other requested colour. */
  color: string | null;
  background: string | null;
}

type Color = number | string | null;

interface Style {
  fg: Color;
  bg: Color;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
  inverse: boolean;
  strike: boolean;
}

// Direction marks, C1 controls, and line separators that terminals ignore.
const NAMED = /[\u0080-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
// deno-lint-ignore no-control-regex
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f]/g;
const SEQUENCE =
  // deno-lint-ignore no-control-regex
  /\u001b(?:\[([0-9;:<=>?]*)[ -/]*([@-~])|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[PX^_][^\u001b]*(?:\u001b\\)?|[ -/]*[0-~]?)/g;
// maximum characters of a piece, since text nodes of a megabyte slow layout down
const LONGEST = 1024;
const LEVELS = [0, 95, 135, 175, 215, 255];
const FLAGS = ["bold", "dim", "italic", "underline", "strike"] as const;

const plain = (): Style => ({
  fg: null,
  bg: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  inverse: false,
  strike: false,
});

const SIMPLE: Record<number, Partial<Style>> = {
  0: plain(),
  1: { bold: true },
  2: { dim: true },
  3: { italic: true },
  4: { underline: true },
  7: { inverse: true },
  9: { strike: true },
  22: { bold: false, dim: false },
  23: { italic: false },
  24: { underline: false },
  27: { inverse: false },
  29: { strike: false },
  39: { fg: null },
  49: { bg: null },
};

function indexed(n: number): Color {
  if (n < 16) return n;
  if (n > 231) {
    const grey = 8 + (n - 232) * 10;
    return `rgb(${grey} ${grey} ${grey})`;
  }
  const m = n - 16;
  const level = (digit: number) => LEVELS[digit % 6];
  return `rgb(${level(Math.floor(m / 36))} ${level(Math.floor(m / 6))} ${level(m)})`;
}

/** Applies the parameters of one SGR sequence (ECMA-48, 8.3.117). */
function select(style: Style, parameters: string): void {
  const codes = parameters === "" ? [0] : parameters.split(/[;:]/).map(Number);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i] ?? 0;
    const simple = SIMPLE[code];
    if (simple) Object.assign(style, simple);
    else if (code >= 30 && code <= 37) style.fg = code - 30;
    else if (code >= 90 && code <= 97) style.fg = code - 82;
    else if (code >= 40 && code <= 47) style.bg = code - 40;
    else if (code >= 100 && code <= 107) style.bg = code - 92;
    else if (code === 38 || code === 48) {
      const where = code === 38 ? "fg" : "bg";
      if (codes[i + 1] === 5) {
        style[where] = indexed((codes[i + 2] ?? 0) & 255);
        i += 2;
      } else if (codes[i + 1] === 2) {
        style[where] = `rgb(${codes.slice(i + 2, i + 5).map((v) => v & 255).join(" ")})`;
        i += 4;
      }
    }
  }
}

function look(style: Style): Omit<Piece, "text"> {
  const names: string[] = [];
  let { fg, bg } = style;
  if (style.inverse) [fg, bg] = [bg ?? "var(--output)", fg ?? "var(--text)"];
  if (typeof fg === "number") names.push(`fg${fg}`);
  if (typeof bg === "number") names.push(`bg${bg}`);
  names.push(...FLAGS.filter((flag) => style[flag]));
  return {
    name: names.join(" "),
    color: typeof fg === "string" ? fg : null,
    background: typeof bg === "string" ? bg : null,
  };
}

/** The text, with names for invisible characters. */
export function visible(raw: string): string {
  return raw
    .replace(
      NAMED,
      (char) => `⟨U+${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
    )
    .replace(
      CONTROL,
      (char) => char === "\u007f" ? "␡" : String.fromCharCode(0x2400 + char.charCodeAt(0)),
    );
}

/** The lines of a text, each as pieces. */
export function lines(text: string): Piece[][] {
  const style = plain();
  let line: Piece[] = [];
  const found = [line];
  function add(raw: string): void {
    for (const [n, whole] of raw.split("\n").entries()) {
      if (n > 0) found.push(line = []);
      let part = whole.endsWith("\r") ? whole.slice(0, -1) : whole;
      const back = part.lastIndexOf("\r");
      if (back >= 0) { // a progress bar overwrites its line
        line.length = 0;
        part = part.slice(back + 1);
      }
      const clean = visible(part);
      for (let at = 0; at < clean.length; at += LONGEST) {
        line.push({ text: clean.slice(at, at + LONGEST), ...look(style) });
      }
    }
  }
  let at = 0;
  for (const match of text.matchAll(SEQUENCE)) {
    if (match.index > at) add(text.slice(at, match.index));
    if (match[2] === "m") select(style, match[1] ?? "");
    at = match.index + match[0].length;
  }
  if (at < text.length) add(text.slice(at));
  if (found.length > 1 && line.length === 0) found.pop();
  return found;
}
