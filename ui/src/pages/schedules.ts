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

function Row({ schedule, tabindex }: { schedule: Schedule; tabindex: number }) {
  return html`
    <span role="cell" class="name"><${Status} of=${schedule.enabled
      ? "active"
      : "paused"} isQuiet />
          <div><a href=${href(["schedules", schedule.name])} tabindex=${tabindex}>${schedule
            .name}</a
            ><small>${schedule.function}</small></div></span>
    <span role="cell" class="clip"><${When} of=${schedule} /></span>
    <span role="cell" class="small num">${schedule.enabled
      ? html`<${Ahead} at=${schedule.next_runs[0]} />`
      : html`<span class="muted">paused</span>`}</span>
    <span role="cell" class="small clip wide">${schedule.last_run
      ? html`<${Outcome} of=${schedule.last_run} /> <span class="muted"><${Ago} at=${schedule.last_run.due_at} /></span>`
      : html`<span class="muted">never</span>`}</span>
    <span role="cell" class="roomy"><${FetchedStrip} name=${schedule.name}
      functionId=${idOf(schedule.function)}
      latest=${`${schedule.fired_count} ${schedule.last_run?.due_at} ${schedule.last_run?.status}`} /></span>
    <span role="cell" class="num small right roomy">${count(
      schedule.fired_count,
    )}${schedule.missed_count > 0 && html`
      <span class="some">${count(schedule.missed_count)} missed</span>
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
  // Set at once instead of in an effect, which could overwrite early typing of the user.
  useMemo(() => text.value = route.peek().query.get("q") ?? "", []);
  useEffect(() => {
    return onEvent((event) => {
      if (event.type === "schedule.fired") again();
    });
  }, []);
  useEffect(() => note({ q: query.value }), [query.value]);
  const whole = value.value;
  const shown = whole?.filter((schedule) => fits(query.value, schedule.name, schedule.function)) ??
    [];
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
              keyOf=${(schedule: Schedule) => schedule.id} cells=${(
                schedule: Schedule,
                tabindex: number,
              ) => html`<${Row} schedule=${schedule} tabindex=${tabindex} />`} />
          `
          : whole && whole.length > 0
          ? html`<p class="empty">No matching schedules.</p>`
          : whole
          ? html`<${Empty} />`
          : !problem.value && html`<${Waiting} />`}
  `;
}
