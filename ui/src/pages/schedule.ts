// One schedule: its due times, the outcomes of its runs, and their input.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, get, pages, type Refused } from "../api.ts";
import { html } from "../html.ts";
import type { PageProps } from "../page_props.ts";
import { confirm } from "../parts/controls/confirm.ts";
import { useFetched, Waiting } from "../parts/lists/fetched.ts";
import { count, counted } from "../parts/text/format.ts";
import { Names } from "../parts/text/names.ts";
import { Notice } from "../parts/lists/notice.ts";
import { Printable } from "../parts/text/printable.ts";
import { interval, inZone, Outcome, RunStrip, When } from "../parts/resources/schedule.ts";
import { ScheduleForm } from "../parts/resources/schedule_form.ts";
import { Status } from "../parts/invocation/status.ts";
import { Ago, Ahead } from "../parts/text/time.ts";
import { useTitle } from "../parts/text/title.ts";
import { toast, toastError } from "../parts/controls/toast.ts";
import { go, href } from "../router.ts";
import { idOf, onEvent } from "../store.ts";
import type { Invocation, Schedule, ScheduleRun, ScheduleRunPage } from "../wire.ts";

const STRIP = 30; // latest runs in the strip
const RUNS = 50; // runs shown at first, and fetched at once

const pathOf = (name: string) => `api/schedules/${encodeURIComponent(name)}`;

function NextRuns({ of }: { of: Schedule }) {
  return html`<section class="card" aria-labelledby="next"><header><h2 id="next">Next runs</h2>
      <span class="push small muted">${of.cron && of.timezone}</span></header>
    ${
    of.enabled
      ? html`<ol class="moments">${
        of.next_runs.map((at) =>
          html`<li key=${at}><span class="num">${inZone(at, of.timezone)}</span>
            <span class="muted small"><${Ahead} at=${at} /></span></li>`
        )
      }</ol>`
      : html`<p class="empty">None while it is paused.</p>`
  }</section>`;
}

function Given({ of }: { of: Schedule }) {
  const names = Object.keys(of.environment ?? {});
  return html`
    <section class="card" aria-labelledby="given">
      <header>
        <h2 id="given">Each run</h2>
      </header>
      <dl class="pairs"><dt>Payload</dt><dd>${of.payload === null
        ? html`<span class="muted">none</span>`
        : html`<${Printable} text=${of.payload} label="Payload" />`}</dd>
          <dt>Environment</dt><dd><${Names} of=${names} none="the function's own" /></dd>
          <dt>While one runs</dt><dd>${SAID[of.overlap]}</dd>
          <dt>What was missed</dt><dd>${SAID[`missed ${of.missed}`]}</dd>
          ${of.jitter_seconds > 0 &&
            html`
              <dt>Jitter</dt>
              <dd>up to ${interval(of.jitter_seconds)} later</dd>
            `}</dl>
    </section>
  `;
}

const SAID: Record<string, string> = {
  allow: "another one may run beside it",
  skip: "the next one is skipped",
  queue: "the next one waits for its end",
  "missed skip": "is skipped",
  "missed run_once": "is run once for all that was missed",
};

function Runs({ of, latest }: { of: Schedule; latest: string }) {
  const most = useSignal(RUNS);
  const { value, problem } = useFetched(async (signal) => {
    const found: ScheduleRun[] = [];
    const query = { limit: RUNS };
    for await (const page of pages<ScheduleRunPage>(`${pathOf(of.name)}/runs`, query, signal)) {
      found.push(...page.runs);
      if (found.length >= most.value || !page.next_cursor) {
        return { runs: found, isWhole: !page.next_cursor };
      }
    }
    return { runs: found, isWhole: true };
  }, [of.name, latest, most.value]);
  const id = idOf(of.function);
  const found = value.value;
  return html`<section class="card after" aria-labelledby="runs"><header class="wraps"><h2 id="runs">Runs</h2>
      <span class="push"><${RunStrip} runs=${found?.runs.slice(0, STRIP) ?? []}
        functionId=${id} /></span></header>
    ${problem.value && html`<${Notice} of=${problem.value} />`}
    ${
    found?.runs.length === 0 ? html`<p class="empty">It has not been due yet.</p>` : found && html`
      <div class="scroll">
        <table class="table">
          <thead>
            <tr>
              <th>Due</th>
              <th>Outcome</th>
              <th class="wide">Why</th>
              <th class="wide">Invocation</th>
            </tr>
          </thead>
          <tbody>${found.runs.map((run) =>
            html`
              <tr key=${run.due_at + (run.invocation_id ?? "")}>
                <td>${run.invocation_id && id
                  ? html`<a href=${
                    href(["functions", id, "invocations", run.invocation_id])
                  }><${Ago} at=${run.due_at} /></a>`
                  : html`<${Ago} at=${run.due_at} />`}</td>
                <td>
                  <${Outcome} of=${run} />
                </td>
                <td class="wide small muted long">${run.manual
                  ? "a caller asked for it"
                  : run.reason}</td>
                <td class="wide mono small muted">${run.invocation_id}</td>
              </tr>
            `
          )}</tbody>
        </table>
      </div>
    `
  }
    ${
    found && !found.isWhole && html`
      <p
        class="inside"><button class="button" type="button" onClick=${() => {
          most.value += RUNS * 4;
        }}>Show older runs</button></p>
    `
  }</section>`;
}

export default function SchedulePage({ name = "" }: PageProps) {
  const fetched = useFetched((signal) => get<Schedule>(pathOf(name), {}, signal), [name]);
  const isEdited = useSignal(false);
  const isBusy = useSignal(false);
  const { value, problem, again } = fetched;
  useTitle(name);
  useEffect(() =>
    onEvent((event) => {
      const last = value.peek()?.last_run;
      if (event.type === "schedule.fired" && event.schedule === name) again();
      if (event.invocation_id && event.invocation_id === last?.invocation_id) again();
    }), [name]);
  if (problem.value && !value.value) {
    return html`<${Notice} of=${problem.value} onRetry=${again} />`;
  }
  const schedule = value.value;
  if (!schedule) return html`<${Waiting} />`;

  async function act(work: () => Promise<void>) {
    isBusy.value = true;
    try {
      await work();
    } catch (error) {
      toastError(error as Refused);
    }
    isBusy.value = false;
  }
  const run = () =>
    act(async () => {
      const made = await call<Invocation>("POST", `${pathOf(name)}/run`);
      go(href(["functions", made.function_id, "invocations", made.invocation_id]));
    });
  const enable = (enabled: boolean) =>
    act(async () => {
      value.value = await call<Schedule>("PUT", pathOf(name), { body: { enabled } });
    });
  const remove = () =>
    act(async () => {
      const text =
        `${schedule.function} is no longer run by it. Calls that it has queued still run.`;
      if (!await confirm({ title: `Delete ${name}?`, text, verb: "Delete" })) return;
      await call("DELETE", pathOf(name));
      toast(`${name} is deleted.`);
      go("#/schedules");
    });
  const id = idOf(schedule.function);
  const last = schedule.last_run;
  return html`
    <p class="crumbs"><a href="#/schedules">Schedules</a> / ${name}</p>
        <div class="title"><h1>${name}</h1><${Status} of=${schedule.enabled
          ? "active"
          : "paused"} />
          <span class="actions"><button class="button primary" type="button" disabled=${isBusy
            .value} onClick=${run}>Run now</button>
            <button class="button" type="button" disabled=${isBusy.value} onClick=${() =>
              enable(!schedule.enabled)}>${schedule.enabled ? "Pause" : "Resume"}</button>
            <button class="button" type="button" aria-expanded=${isEdited.value} onClick=${() => {
              isEdited.value = !isEdited.value;
            }}>Edit</button>
            <button class="button" type="button" disabled=${isBusy
              .value} onClick=${remove}>Delete</button></span></div>
        <p
      class="facts"><span>runs ${id
        ? html`<a href=${href(["functions", id])}>${schedule.function}</a>`
        : html`<b>${schedule.function}</b>`}</span><span><${When} of=${schedule} /></span><span>${counted(
          schedule.fired_count,
          "run",
        )}</span>
          ${schedule.skipped_count > 0 &&
            html`<span>${count(schedule.skipped_count)} skipped</span>`}
          ${schedule.missed_count > 0 &&
            html`<span class="some">${count(schedule.missed_count)} missed</span>`}</p>
        ${isEdited.value
          ? html`<${ScheduleForm} of=${schedule} onSaved=${(saved: Schedule) => {
            value.value = saved;
            isEdited.value = false;
            toast(`${saved.name} is saved.`);
          }} onCancel=${() => {
            isEdited.value = false;
          }} />`
          : html`
            <div class="grid">
              <${NextRuns} of=${schedule} />
              <${Given} of=${schedule} />
            </div>
            <${Runs} of=${schedule} latest=${`${schedule.fired_count} ${last?.due_at} ${last?.status}`} />
          `}
  `;
}
