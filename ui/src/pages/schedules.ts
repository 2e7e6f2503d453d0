// All schedules: their functions, next due times, and last outcomes.
import { computed, signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { pages } from "../api.ts";
import { html } from "../html.ts";
import { Copy } from "../parts/controls/copy.ts";
import { useFetched, Waiting } from "../parts/lists/fetched.ts";
import { count } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Notice } from "../parts/lists/notice.ts";
import { FetchedStrip, Outcome, When } from "../parts/resources/schedule.ts";
import { fits, Search } from "../parts/controls/search.ts";
import { Status } from "../parts/invocation/status.ts";
import { Ago, Ahead } from "../parts/text/time.ts";
import { href, note, route } from "../router.ts";
import { idOf, onEvent } from "../store.ts";
import type { Schedule, SchedulePage } from "../wire.ts";

const COLUMNS: Column[] = [
  { name: "Name", width: "minmax(12rem, 1fr)" },
  { name: "When", width: "minmax(10rem, 18rem)" },
  { name: "Next run", width: "6rem" },
  { name: "Last run", width: "11rem", class: "wide" },
  { name: "Latest runs", width: "14rem", class: "roomy" },
  { name: "Runs", width: "6rem", class: "right roomy" },
];

const text = signal("");

async function all(signal: AbortSignal): Promise<Schedule[]> {
  const found: Schedule[] = [];
  for await (const page of pages<SchedulePage>("api/schedules", { limit: 200 }, signal)) {
    found.push(...page.schedules);
  }
  return found;
}

function Row({ one, tabindex }: { one: Schedule; tabindex: number }) {
  return html`
    <span role="cell" class="name"><${Status} of=${one.enabled ? "active" : "paused"} isQuiet />
          <div><a href=${href(["schedules", one.name])} tabindex=${tabindex}>${one.name}</a
            ><small>${one.function}</small></div></span>
    <span role="cell" class="clip"><${When} of=${one} /></span>
    <span role="cell" class="small num">${one.enabled
      ? html`<${Ahead} at=${one.next_runs[0]} />`
      : html`<span class="muted">paused</span>`}</span>
    <span role="cell" class="small clip wide">${one.last_run
      ? html`<${Outcome} of=${one.last_run} /> <span class="muted"><${Ago} at=${one.last_run.due_at} /></span>`
      : html`<span class="muted">never</span>`}</span>
    <span role="cell" class="roomy"><${FetchedStrip} name=${one.name}
      functionId=${idOf(one.function)}
      latest=${`${one.fired_count} ${one.last_run?.due_at} ${one.last_run?.status}`} /></span>
    <span role="cell" class="num small right roomy">${count(
      one.fired_count,
    )}${one.missed_count > 0 && html`
      <span class="some">${count(one.missed_count)} missed</span>
    `}</span>
  `;
}

function Empty() {
  return html`
    <div class="card empty teach">
      <h2>No schedules yet</h2>
      <p>A schedule runs a function by a cron expression or at an interval.</p>
      <p><a class="button primary" href="#/new-schedule">Make one here</a></p>
      <p>or in a terminal:</p>
      <${Copy} text="quiltfn schedules add nightly hello --cron '0 3 * * *'" />
    </div>
  `;
}

const query = computed(() => text.value.trim());

export default function Schedules() {
  const { value, problem, again } = useFetched(all, []);
  // At once, not in an effect, which could overwrite early typing of the user.
  useMemo(() => text.value = route.peek().query.get("q") ?? "", []);
  useEffect(() => {
    return onEvent((one) => {
      if (one.type === "schedule.fired") again();
    });
  }, []);
  useEffect(() => note({ q: query.value }), [query.value]);
  const whole = value.value;
  const shown = whole?.filter((one) => fits(query.value, one.name, one.function)) ?? [];
  return html`
    <div
      class="bar"><h1>Schedules</h1><span class="muted num" role="status">${whole &&
        (shown.length === whole.length
          ? count(whole.length)
          : `${count(shown.length)} of ${
            count(whole.length)
          }`)}</span><a class="button primary push" href="#/new-schedule">New schedule</a></div>
        ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
        ${whole && whole.length > 0 &&
          html`
            <div class="bar">
              <${Search} text=${text} label="Search by name or function" />
            </div>
          `}
        ${shown.length > 0
          ? html`
            <${List} label="Schedules" columns=${COLUMNS} items=${shown}
              keyOf=${(one: Schedule) => one.id} cells=${(one: Schedule, tabindex: number) =>
                html`<${Row} one=${one} tabindex=${tabindex} />`} />
          `
          : whole && whole.length > 0
          ? html`<p class="empty">No matching schedules.</p>`
          : whole
          ? html`<${Empty} />`
          : !problem.value && html`<${Waiting} />`}
  `;
}
