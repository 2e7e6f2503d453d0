// A status is a symbol, a word and a colour, never only a colour.
import { html } from "../../html.ts";
import { HTTP_ERRORS } from "../../wire.ts";

const PATHS: Record<string, string> = {
  check: "M3 8.5l3.2 3L13 4.5",
  cross: "M4 4l8 8M12 4l-8 8",
  clock: "M8 4v4l3 2M8 1.8a6.2 6.2 0 1 0 .01 0",
  full: "M3 3h10v10H3zM3 8h10M8 8v5",
  dot: "M8 5a3 3 0 1 0 .01 0",
  ring: "M8 3a5 5 0 1 0 .01 0",
  bar: "M8 2.5a5.5 5.5 0 1 0 .01 0M4 12L12 4",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  bang: "M8 3v6M8 12.2v.3",
  bolt: "M9 2L4 9h4l-1 5 5-7H8z",
};
const GLYPHS: Record<string, string> = {
  success: "check",
  active: "check",
  ready: "check",
  failed: "cross",
  failing: "cross",
  error: "bang",
  timeout: "clock",
  oom: "full",
  running: "dot",
  busy: "dot",
  queued: "ring",
  pending: "ring",
  cancelled: "bar",
  interrupted: "bolt",
  deploying: "clock",
  warming: "clock",
  paused: "pause",
  cordoned: "pause",
  draining: "clock",
  silent: "bang",
  left: "ring",
  gone: "cross",
  removed: "bar",
};

export function Glyph({ name, size = 16 }: { name: string; size?: number }) {
  return html`
    <svg class="glyph" width=${size} height=${size} viewBox="0 0 16 16" fill="none"
      stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"
      aria-hidden="true">
      <path d=${PATHS[name]} />
    </svg>
  `;
}

/** Whether a handler succeeded with an HTTP response that counts as an error. */
export const isHttpError = (of: { status: string; http_status?: number | null }): boolean =>
  of.status === "success" && (of.http_status ?? 0) >= HTTP_ERRORS;

/** `of`: a state of a function, instance or node, or a status of an invocation. `said`: replaces
 * its word. `http`: the status of the invocation's HTTP response. `isQuiet`: only screen readers
 * get the word.
 */
export function Status({ of, said = of, http = null, isQuiet = false }: {
  of: string;
  said?: string;
  http?: number | null;
  isQuiet?: boolean;
}) {
  const isBad = isHttpError({ status: of, http_status: http });
  const [kind, word] = isBad ? ["failed", `HTTP ${http}`] : [of, said];
  return html`<span class=${`status ${kind}`} title=${
    isBad ? `${of}, ${word}` : word
  }><${Glyph} name=${GLYPHS[kind] ?? "ring"} />
    <span class=${isQuiet ? "hidden-visually" : ""}>${word}</span></span>`;
}

/** The status of the invocation's HTTP response; empty if it had none. */
export function HttpStatus({ of }: { of: { http_status?: number | null } }) {
  const code = of.http_status ?? null;
  return code !== null &&
    html`<span class=${code >= HTTP_ERRORS ? "some" : "muted"}>${code}</span>`;
}
