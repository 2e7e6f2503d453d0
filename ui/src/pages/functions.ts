// The list of all functions with their current activity.
import { computed, signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import {
  activityProblem,
  BUCKETS,
  fetchActivity,
  lastCallOf,
  minuteAt,
  minuteOf,
  poolOf,
  statsOf,
  watchActivity,
} from "../activity.ts";
import { elsewhereSaid } from "../aliases.ts";
import { serverLine } from "../command.ts";
import { html } from "../html.ts";
import { visible } from "../parts/text/ansi.ts";
import { Choice } from "../parts/controls/choice.ts";
import { Copy } from "../parts/controls/copy.ts";
import { count, counted, duration, percent } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Notice } from "../parts/lists/notice.ts";
import { PoolBar } from "../parts/charts/pool.ts";
import { fits, Search } from "../parts/controls/search.ts";
import { Status } from "../parts/invocation/status.ts";
import { Ago } from "../parts/text/time.ts";
import { href, note, route } from "../router.ts";
import { isFailing } from "../standing.ts";
import { areAllLoaded, functions, load, now, problem } from "../store.ts";
import type { FunctionStats, FunctionSummary } from "../wire.ts";

const STATES = ["active", "paused", "pending", "deploying", "error"] as const;
const COLUMNS: Column[] = [
  { name: "Name", width: "minmax(12rem, 1fr)", sort: "name" },
  { name: "Runtime", width: "minmax(5rem, 0.4fr)", class: "roomy" },
  { name: "Version", width: "3.5rem", class: "roomy" },
  { name: "Pool", width: "9rem" },
  { name: "Calls", width: "8.5rem", class: "right wide", sort: "calls" },
  { name: "Errors", width: "4rem", class: "right wide", sort: "errors" },
  { name: "p50", width: "4.5rem", class: "right roomy", sort: "p50" },
  { name: "p99", width: "4.5rem", class: "right roomy", sort: "p99" },
  { name: "Last call", width: "5.5rem", class: "right", sort: "last" },
];
const lastCall = (fn: FunctionSummary): number =>
  Math.max(lastCallOf(fn.id).peek() ?? 0, fn.last_invoked_at ?? 0);
const SORTS: Record<string, (fn: FunctionSummary) => string | number> = {
  name: (fn) => fn.name.toLowerCase(),
  calls: (fn) => statsOf(fn.id).peek()?.calls ?? 0,
  errors: (fn) => {
    const stats = statsOf(fn.id).peek();
    return stats ? stats.errors / Math.max(1, stats.calls) : -1;
  },
  p50: (fn) => statsOf(fn.id).peek()?.p50_ms ?? -1,
  p99: (fn) => statsOf(fn.id).peek()?.p99_ms ?? -1,
  last: lastCall,
};

const text = signal("");
const state = signal("");
const sorted = signal({ by: "last", isDown: true });

export const shown = computed(() => {
  const { by, isDown } = sorted.value;
  const value = SORTS[by] ?? lastCall;
  const found = [...functions.value.values()].filter((fn) =>
    (!state.value || fn.state === state.value) && fits(text.value, fn.name, fn.description)
  );
  const keyed = found.map((fn) => ({ fn, key: value(fn) }));
  keyed.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0) * (isDown ? -1 : 1));
  return keyed.map(({ fn }) => fn);
});

/** Sorts by a column: names from A, other columns from the largest value. A second click reverses
 * the order.
 */
function sort(by: string): void {
  const { by: before, isDown } = sorted.peek();
  sorted.value = { by, isDown: by === before ? !isDown : by !== "name" };
}

/** The invocations of the last minute as twelve bars and a number. */
function Rate({ id }: { id: string }) {
  const bars = minuteAt(minuteOf(id).value, now.value);
  const sum = Math.round(bars.reduce((a, b) => a + b, 0));
  const most = Math.max(3, ...bars);
  if (sum === 0) return html`<span class="muted">0 / min</span>`;
  return html`
    <svg width=${BUCKETS * 4} height="16"
      aria-hidden="true">${bars.map((v, n) =>
        v > 0 &&
        html`<rect x=${n * 4} width="3" y=${16 - 16 * v / most} height=${16 * v / most} key=${n} />`
      )}</svg><span>${count(sum)} / min</span>
  `;
}

/** Error rate and latency of the last hour. */
function Figures({ of }: { of: FunctionStats | null }) {
  const said = of &&
    `${counted(of.errors, "error")} in ${counted(of.calls, "call")} of the last hour`;
  const cells = of
    ? [percent(of.errors, of.calls), duration(of.p50_ms), duration(of.p99_ms)]
    : ["–", "–", "–"];
  return cells.map((text, n) =>
    html`
      <span role="cell" title=${said} key=${n}
        class=${`num small right ${n ? "roomy" : "wide"} ${
          !of ? "muted" : n === 0 && of.errors ? "some" : ""
        }`}>${text}</span>
    `
  );
}

function Row({ fn, tabindex }: { fn: FunctionSummary; tabindex: number }) {
  const known = lastCallOf(fn.id).value ?? fn.last_invoked_at;
  const stats = statsOf(fn.id).value;
  const errors = stats?.errors ?? 0;
  const isBad = isFailing(fn, stats);
  const served = fn.default_alias?.version ?? fn.current_version;
  const isOther = served !== fn.current_version; // the list has only the current version's runtime
  return html`
    <span role="cell" class="name"><${Status} of=${isBad ? "failing" : fn.state}
      said=${isBad ? `${fn.state}, failing` : fn.state} isQuiet />
          <div><a href=${href(["functions", fn.id])} tabindex=${tabindex}>${fn.name}</a
            ><small>${visible(fn.error_message ?? fn.description ?? "")}</small></div></span>
    <span role="cell" class="small muted roomy clip" title=${fn.runtime}>${isOther &&
      `v${fn.current_version}: `}${fn.runtime}</span>
    <span role="cell" class="num small muted roomy" title=${elsewhereSaid(fn) &&
      `version ${fn.current_version} is current; calls run on ${
        elsewhereSaid(fn)
      }`}>v${served}</span>
    <span role="cell">${fn.state === "pending"
      ? html`<span class="small muted">not deployed</span>`
      : html`<${PoolBar} counts=${poolOf(fn.id).value} most=${fn.max_instances} />`}</span>
    <span role="cell" class="rate num small right wide"><${Rate} id=${fn.id} /></span>
    <${Figures} of=${statsOf(fn.id).value} />
    <span role="cell" class="num small right">${errors > 0 &&
      html`<span class="narrow some">${
        counted(errors, "error")
      } </span>`}<${Ago} at=${known} /></span>
  `;
}

function Empty() {
  if (functions.value.size > 0) {
    return html`
      <p
        class="empty">No matching functions. <button class="button" type="button" onClick=${() => {
          text.value = state.value = "";
        }}>Show all</button></p>
    `;
  }
  const there = serverLine();
  return html`
    <div class="card empty teach">
      <h2>No functions yet</h2>
      <p>A function is a piece of code that runs when it is called, in a sandbox of its own.</p>
      <p><a class="button primary" href="#/functions/new">Create function</a></p>
      <p>or in a terminal:</p>
      ${there && html`<${Copy} text=${there} />`}
      <${Copy} text="quiltfn functions create hello --handler 'echo hello'" />
      <${Copy} text="quiltfn functions deploy hello" />
      <${Copy} text="quiltfn invoke hello" />
    </div>
  `;
}

export default function Functions() {
  useEffect(watchActivity, []);
  // Set at once instead of in an effect, which could overwrite an early choice of the user.
  useMemo(() => {
    const query = route.peek().query;
    text.value = query.get("q") ?? "";
    state.value = query.get("state") ?? "";
    const by = query.get("sort");
    if (by && by in SORTS) sorted.value = { by, isDown: query.get("order") === "desc" };
  }, []);
  const { by, isDown } = sorted.value;
  const q = text.value;
  const only = state.value;
  useEffect(() => {
    const isUsual = by === "last" && isDown;
    note({ q, state: only, sort: isUsual ? "" : by, order: !isUsual && isDown ? "desc" : "" });
  }, [q, only, by, isDown]);
  const all = shown.value;
  const whole = functions.value.size;
  return html`
    <div
      class="bar"><h1>Functions</h1><span class="muted num" role="status">${problem.value &&
          whole === 0
        ? ""
        : `${all.length === whole ? count(whole) : `${count(all.length)} of ${count(whole)}`}${
          areAllLoaded.value ? "" : " …"
        }`}</span>
          <a class="button primary push" href="#/functions/new">New function</a></div>
        ${problem.value && html`<${Notice} of=${problem.value} onRetry=${load} />`}
        ${!problem.value && activityProblem.value &&
          html`<${Notice} of=${activityProblem.value} onRetry=${fetchActivity} />`}
        ${(whole > 0 || q || only) &&
          html`
            <div class="bar">
              <${Search} text=${text} label="Search by name or description" />
              <${Choice} label="State" options=${STATES} chosen=${state} />
            </div>
          `}
        ${all.length > 0
          ? html`
            <${List} label="Functions" columns=${COLUMNS} items=${all}
              sorted=${sorted.value}
              onSort=${sort} keyOf=${(fn: FunctionSummary) => fn.id} cells=${(
                fn: FunctionSummary,
                tabindex: number,
              ) => html`<${Row} fn=${fn} tabindex=${tabindex} />`} />
          `
          : areAllLoaded.value && html`<${Empty} />`}
  `;
}
