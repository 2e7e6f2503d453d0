// The schedules of a function.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, pages, type Refused } from "../../api.ts";
import { html } from "../../html.ts";
import { Copy } from "../../parts/controls/copy.ts";
import { Waiting } from "../../parts/lists/fetched.ts";
import { exact } from "../../parts/text/format.ts";
import { Notice } from "../../parts/lists/notice.ts";
import { FetchedStrip, When } from "../../parts/resources/schedule.ts";
import { Status } from "../../parts/invocation/status.ts";
import { Ago } from "../../parts/text/time.ts";
import { toast, toastError } from "../../parts/controls/toast.ts";
import { href } from "../../router.ts";
import { may } from "../../scope.ts";
import { onEvent, onRefetch } from "../../store.ts";
import type { Function, Invocation, Schedule, SchedulePage } from "../../wire.ts";

const pathOf = (schedule: Schedule): string => `api/schedules/${encodeURIComponent(schedule.name)}`;

function useSchedules(name: string) {
  const all = useSignal<readonly Schedule[] | null>(null);
  const problem = useSignal<Refused | null>(null);
  async function again() {
    try {
      const found: Schedule[] = [];
      for await (const page of pages<SchedulePage>("api/schedules", { limit: 1000 })) {
        found.push(...page.schedules.filter((schedule) => schedule.function === name));
      }
      all.value = found;
      problem.value = null;
    } catch (error) {
      problem.value = error as Refused;
    }
  }
  useEffect(() => {
    again();
    const ends = [
      onRefetch(again),
      onEvent((event) => {
        if (event.type === "schedule.fired") again();
      }),
    ];
    return () => ends.forEach((end) => end());
  }, [name]);
  return { all: all.value, problem: problem.value, again };
}

function Row({ of, id, again }: { of: Schedule; id: string; again: () => Promise<void> }) {
  async function run() {
    try {
      await call<Invocation>("POST", `${pathOf(of)}/run`);
      toast(`${of.name} was queued.`);
    } catch (error) {
      toastError(error);
    }
  }
  async function set(enabled: boolean) {
    try {
      await call("PUT", pathOf(of), { body: { enabled } });
      await again();
      toast(`${of.name} is ${enabled ? "on" : "off"}.`, { undo: () => set(!enabled) });
    } catch (error) {
      toastError(error);
    }
  }
  const first = of.next_runs[0];
  const next = !of.enabled ? "off" : first === undefined ? "–" : exact(first);
  return html`
    <tr>
      <td>
        <div><a href=${href(["schedules", of.name])}>${of.name}</a></div>
        <p class="narrow small"><${When} of=${of} />, ${next}</p>
      </td>
      <td class="small wide">
        <${When} of=${of} />
      </td>
      <td class=${`num small wide ${of.enabled ? "" : "muted"}`}>${next}</td>
      <td class="wide small">${of.last_run === null ? html`<span class="muted">never</span>` : html`
        ${of.last_run.status && html`
          <${Status} of=${of.last_run.status} />
        `}<${Ago}
          at=${of.last_run.due_at} />
        <div>
          <${FetchedStrip} name=${of.name} functionId=${id}
            latest=${`${of.fired_count} ${of.last_run.due_at} ${of.last_run.status}`} />
        </div>
      `}</td>
      <td class="right">
        <div class="actions">${may("invoke") && html`
          <button class="button" type="button" onClick=${run}
            aria-label=${`Run ${of.name} now`}>Run now</button>
        `}${may("write") && html`
          <button class="button" type="button" onClick=${() => set(!of.enabled)}
            aria-label=${`Turn ${of.name} ${of.enabled ? "off" : "on"}`}>Turn ${of.enabled
              ? "off"
              : "on"}</button>
        `}</div>
      </td>
    </tr>
  `;
}

export function Schedules({ fn }: { fn: Function }) {
  const { all, problem, again } = useSchedules(fn.name);
  return html`
    ${problem && html`<${Notice} of=${problem} onRetry=${again} />`}
    ${!all
      ? html`<${Waiting} />`
      : html`<section class="card" aria-labelledby="schedules"><header><h2 id="schedules">Schedules</h2
      >${
        may("write") &&
        html`<a class="button push" href=${
          href(["new-schedule"], { function: fn.name })
        }>New schedule</a>`
      }</header>${
        all.length === 0
          ? html`
            <div class="empty teach">
              <p>No schedule calls ${fn.name}. In a terminal:</p>
              <${Copy} text=${`quiltfn schedules add nightly ${fn.name} --cron '0 3 * * *'`} />
            </div>
          `
          : html`
            <div class="scrolls">
              <table class="table">
                <thead>
                  <tr>
                    <th>Name</th>
                    <th class="wide">Runs</th>
                    <th class="wide">Next</th>
                    <th class="wide">Last</th>
                    <th><span class="hidden-visually">What can be done</span></th>
                  </tr>
                </thead>
                <tbody>${all.map((each) =>
                  html`<${Row} of=${each} id=${fn.id} again=${again} key=${each.id} />`
                )}</tbody>
              </table>
            </div>
          `
      }</section>`}
  `;
}
