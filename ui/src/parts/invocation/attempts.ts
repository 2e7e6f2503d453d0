// The attempts of an asynchronous invocation on a time axis, each with its error and the end of its output.
import { get } from "../../api.ts";
import { html } from "../../html.ts";
import type { Attempt, AttemptList, TimedAttempt } from "../../wire.ts";
import { visible } from "../text/ansi.ts";
import { useFetched } from "../lists/fetched.ts";
import { duration } from "../text/format.ts";
import { Output } from "./output.ts";
import { Status } from "./status.ts";

export interface Bar {
  /** Milliseconds since the start of the first attempt; null if this attempt never reached an
   * instance.
   */
  after: number | null;
  /** Percent of the time from the first start to the last end. */
  from: number;
  width: number;
}

export function bars(all: readonly TimedAttempt[]): Bar[] {
  const starts = all.map((attempt) => attempt.started_at_ms).filter((attempt) => attempt !== null);
  const first = Math.min(...starts);
  const ends = all.map((attempt) => (attempt.started_at_ms ?? first) + (attempt.duration_ms ?? 0));
  const whole = Math.max(1, Math.max(...ends) - first);
  return all.map((attempt) => {
    const after = attempt.started_at_ms === null ? null : attempt.started_at_ms - first;
    return {
      after,
      from: 100 * (after ?? 0) / whole,
      width: after === null ? 0 : 100 * (attempt.duration_ms ?? 0) / whole,
    };
  });
}

/** `path`: the path of the invocation. `isQueued`: another attempt will follow, and the page shows
 * no output.
 */
export function Attempts(
  { path, of, isQueued }: { path: string; of: readonly TimedAttempt[]; isQueued: boolean },
) {
  if (of.length < (isQueued ? 1 : 2)) return null;
  return html`<${Table} path=${path} of=${of} isQueued=${isQueued} />`;
}

function Table(
  { path, of, isQueued }: { path: string; of: readonly TimedAttempt[]; isQueued: boolean },
) {
  const { value } = useFetched(
    (signal) => get<AttemptList>(`${path}/attempts`, {}, signal),
    [path, of.length, isQueued],
  );
  const known = value.value?.attempts ?? [];
  const drawn = bars(of);
  return html`
    <section class="card after" aria-labelledby="attempts">
      <header>
        <h2 id="attempts">Attempts</h2>
      </header>
      <table class="table attempts">
        <thead>
          <tr>
            <th>#</th>
            <th>Status</th>
            <th class="right">After</th>
            <th class="right">Duration</th>
            <th class="wide when"><span class="hidden-visually">Timeline</span></th>
            <th class="wide">Start</th>
            <th class="right wide">Version</th>
          </tr>
        </thead>
        ${of.map((attempt, n) =>
          html`
            <tbody key=${attempt.attempt}>
              <${Row} attempt=${attempt} bar=${drawn[n]} />
              <${Details} of=${known.find((each) => each.attempt === attempt.attempt)}
                isShownBelow=${n === of.length - 1 && !isQueued} />
            </tbody>
          `
        )}
      </table>
    </section>
  `;
}

function Row({ attempt, bar }: { attempt: TimedAttempt; bar: Bar }) {
  const place = { left: `min(${bar.from}%, calc(100% - 3px))`, width: `${bar.width}%` };
  return html`
    <tr>
      <td class="num">${attempt.attempt}</td>
      <td>
        <${Status} of=${attempt.status} />
      </td>
      <td class="num right">${bar.after === null ? "–" : duration(bar.after)}</td>
      <td class="num right">${duration(attempt.duration_ms)}</td>
      <td class="wide waterfall when">
        <div class="lane">${bar.after !== null && html`<i class="run" style=${place} />`}</div>
      </td>
      <td class="wide">${attempt.cold_start
        ? html`<span class="cold">cold</span>`
        : html`<span class="muted">warm</span>`}</td>
      <td class="num right wide">${attempt.version ?? "–"}</td>
    </tr>
  `;
}

/** The error and output of an attempt. `isShownBelow`: the page shows its output below. */
function Details({ of, isShownBelow }: { of: Attempt | undefined; isShownBelow: boolean }) {
  if (!of) return null;
  const written = [["Output", of.stdout], ["Log", of.stderr]].filter(([, text]) => text);
  if (!of.error_message && (isShownBelow || written.length === 0)) return null;
  return html`
    <tr class="details">
      <td></td>
      <td colspan="6">
        ${of.error_message && html`<p>${visible(of.error_message)}</p>`}
        ${!isShownBelow && written.map(([name, text]) =>
          html`
            <details key=${name}>
              <summary>${name}</summary>
              <${Output} text=${text} label=${`${name} of attempt ${of.attempt}`} />
            </details>
          `
        )}
      </td>
    </tr>
  `;
}
