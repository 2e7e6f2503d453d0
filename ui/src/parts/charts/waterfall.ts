// The timeline of one invocation: a lane for each phase, each beginning where the previous one ends.
import { html } from "../../html.ts";
import type { Timeline } from "../../wire.ts";
import { duration } from "../text/format.ts";
import { marks } from "./scale.ts";

type Shape = Pick<Timeline, "cold_start" | "cold_reason" | "phases">;

// The style and description of each phase.
const PHASES: Record<string, [kind: string, about: string]> = {
  queued: ["wait", "waited for an instance"],
  placed: ["cold", "sandbox started"],
  specialised: ["cold", "runtime and code loaded"],
  ran: ["run", "the handler's own time"],
  recorded: ["book", "record written"],
};
const REASONS: Record<string, string> = {
  first: "no instance had stood since the server's start or the last deploy. A minimum of one " +
    "instance avoids it.",
  scaled_out: "every instance was busy. A larger minimum avoids it.",
  updated:
    "the last instance had another version's content. With a maximum of two or more, old and " +
    "new fit side by side.",
  evicted: "the last one had been idle for too long, or had to make room.",
  replaced: "the last one ended badly: see the record of the call before.",
};

/** Why an invocation was a cold start, in a sentence, with advice on how to avoid it. */
export function coldSentence(of: Pick<Timeline, "cold_start" | "cold_reason">): string {
  if (!of.cold_start) return "Warm: an instance stood ready.";
  return `Cold: ${REASONS[of.cold_reason ?? ""] ?? "an instance had to be started."}`;
}

const LONG_MS = 20, MOSTLY = 0.9;

/** A note if most of a long duration was the handler's own time; otherwise empty. */
export function ranSentence(phases: Shape["phases"]): string {
  const whole = phases.reduce((sum, phase) => sum + phase.microseconds, 0) / 1000;
  const ran = (phases.find(({ name }) => name === "ran")?.microseconds ?? 0) / 1000;
  if (ran < LONG_MS || ran < MOSTLY * whole) return "";
  const [part, all] = [duration(ran), duration(whole)];
  return `The handler itself took ${
    part === all ? "all" : part
  } of the ${all}: its code, what it ` +
    "imports while it runs, and its wait for a processor.";
}

export interface Lane {
  name: string;
  kind: string;
  about: string;
  ms: number;
  /** Percent of the total time. */
  from: number;
  width: number;
}

export function lanes(timeline: Shape): Lane[] {
  const whole = Math.max(1, timeline.phases.reduce((sum, phase) => sum + phase.microseconds, 0));
  let at = 0;
  return timeline.phases.map(({ name, microseconds }) => {
    const [kind, about] = PHASES[name] ?? ["run", ""];
    const from = 100 * at / whole;
    at += microseconds;
    return { name, kind, about, ms: microseconds / 1000, from, width: 100 * microseconds / whole };
  });
}

function LaneRow({ lane }: { lane: Lane }) {
  const dim = lane.ms ? "" : "none";
  const place = { left: `min(${lane.from}%, calc(100% - 3px))`, width: `${lane.width}%` };
  return html`
    <div role="row"
      class="row"><span role="rowheader" class="what"><span class=${dim}>${lane.name}</span
          ><small>${lane.about}</small></span>
        <span role="cell" class="lane">${lane.ms > 0 &&
          html`<i class=${lane.kind} style=${place} />`}</span>
        <span role="cell" class=${`num small right ${dim}`}>${lane.ms
          ? duration(lane.ms)
          : "–"}</span></div>
  `;
}

export function Waterfall({ timeline }: { timeline: Shape }) {
  const all = lanes(timeline);
  const whole = all.reduce((sum, lane) => sum + lane.ms, 0) || 0.001;
  return html`
    <p class="sentence">${coldSentence(timeline)} ${ranSentence(timeline.phases)}</p>
    <div
      class="waterfall"><div role="table" aria-label="Phases" class="row">${all.map((lane) =>
        html`<${LaneRow} lane=${lane} key=${lane.name} />`
      )}</div><span /><div class="axis num" aria-hidden="true">${marks(whole).map((ms) =>
        html`<span style=${{ left: `${100 * ms / whole}%` }}>${ms ? duration(ms) : "0"}</span>`
      )}</div><span class="num small right"><b>${duration(whole)}</b></span></div>
  `;
}
