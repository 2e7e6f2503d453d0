// The attempts at accepted work, along the time since the first.
import { html } from "../html.ts";
import type { Timeline } from "../wire.ts";
import { duration } from "./format.ts";
import { Status } from "./status.ts";

type Attempt = NonNullable<Timeline["attempts"]>[number];

export interface Bar {
  /** Milliseconds since the first attempt began; null where it was never handed over. */
  after: number | null;
  /** Percent of the time from the first beginning to the last end. */
  from: number;
  width: number;
}

export function bars(all: readonly Attempt[]): Bar[] {
  const starts = all.map((one) => one.started_at_ms).filter((one) => one !== null);
  const first = Math.min(...starts);
  const ends = all.map((one) => (one.started_at_ms ?? first) + (one.duration_ms ?? 0));
  const whole = Math.max(1, Math.max(...ends) - first);
  return all.map((one) => {
    const after = one.started_at_ms === null ? null : one.started_at_ms - first;
    return {
      after,
      from: 100 * (after ?? 0) / whole,
      width: after === null ? 0 : 100 * (one.duration_ms ?? 0) / whole,
    };
  });
}

export function Attempts({ of }: { of: readonly Attempt[] }) {
  if (of.length < 2) return null;
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
            <th class="wide when"><span class="hidden-visually">Along the time</span></th>
            <th class="wide">Start</th>
            <th class="right wide">Version</th>
          </tr>
        </thead>
        <tbody>${of.map((one, n) =>
          html`<${Row} one=${one} bar=${drawn[n]} key=${one.attempt} />`
        )}</tbody>
      </table>
    </section>
  `;
}

function Row({ one, bar }: { one: Attempt; bar: Bar }) {
  const place = { left: `min(${bar.from}%, calc(100% - 3px))`, width: `${bar.width}%` };
  return html`
    <tr>
      <td class="num">${one.attempt}</td>
      <td>
        <${Status} of=${one.status} />
      </td>
      <td class="num right">${bar.after === null ? "–" : duration(bar.after)}</td>
      <td class="num right">${duration(one.duration_ms)}</td>
      <td class="wide waterfall when">
        <div class="lane">${bar.after !== null && html`<i class="run" style=${place} />`}</div>
      </td>
      <td class="wide">${one.cold_start
        ? html`<span class="cold">cold</span>`
        : html`<span class="muted">warm</span>`}</td>
      <td class="num right wide">${one.version ?? "–"}</td>
    </tr>
  `;
}
