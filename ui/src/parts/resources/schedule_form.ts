// The form that creates or edits a schedule.
import { type Signal, useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { call, type Refused } from "../../api.ts";
import { html } from "../../html.ts";
import { functions } from "../../store.ts";
import type { Variable } from "../../trying.ts";
import type { NewSchedule, Schedule } from "../../wire.ts";
import { Form, WrongOf } from "../controls/failing.ts";
import { Area, Field, Select, Text } from "../controls/form.ts";
import { submits } from "../text/keys.ts";
import { Variables } from "../controls/variables.ts";

const USUAL = [
  ["0 * * * *", "every hour"],
  ["0 3 * * *", "every day at 3:00"],
  ["0 9 * * 1-5", "on weekdays at 9:00"],
  ["0 4 * * 0", "on Sundays at 4:00"],
  ["0 0 1 * *", "on the first of a month"],
] as const;
const OVERLAPS = [
  ["allow", "another one may run beside it"],
  ["skip", "skip the next one"],
  ["queue", "let the next one wait"],
] as const;
const MISSED = [["skip", "skip them"], ["run_once", "run once for all of them"]] as const;

const ownZone = (): string => Intl.DateTimeFormat().resolvedOptions().timeZone;

/** `of`: the schedule to edit. Without it a new schedule is created, for `function` if given. */
export function ScheduleForm(
  { of, function: wanted = "", onSaved, onCancel }: {
    of?: Schedule;
    function?: string;
    onSaved: (schedule: Schedule) => void;
    onCancel: () => void;
  },
) {
  const form = {
    name: useSignal(of?.name ?? ""),
    function: useSignal(of?.function ?? wanted),
    kind: useSignal(of?.every_seconds != null ? "interval" : "cron"),
    cron: useSignal(of?.cron ?? "0 3 * * *"),
    every: useSignal(String(of?.every_seconds ?? 900)),
    timezone: useSignal(of?.timezone ?? ownZone()),
    payload: useSignal(of?.payload ?? ""),
    environment: useSignal<readonly Variable[]>(Object.entries(of?.environment ?? {})),
    overlap: useSignal(of?.overlap ?? "skip"),
    missed: useSignal<string>(of?.missed ?? "skip"),
    jitter: useSignal(String(of?.jitter_seconds ?? 0)),
  };
  const problem = useSignal<Refused | null>(null);
  const isBusy = useSignal(false);

  async function save(event: Event) {
    event.preventDefault();
    if (isBusy.value) return;
    isBusy.value = true;
    problem.value = null;
    try {
      const isCron = form.kind.value === "cron";
      const named = form.environment.value.filter(([name]) => name !== "");
      const body = {
        function: form.function.value.trim(),
        ...(isCron
          ? { cron: form.cron.value.trim() }
          : { every_seconds: Number(form.every.value) }),
        timezone: form.timezone.value.trim(),
        payload: form.payload.value === "" ? null : form.payload.value,
        environment: named.length > 0 ? Object.fromEntries(named) : null,
        overlap: form.overlap.value,
        missed: form.missed.value,
        jitter_seconds: Number(form.jitter.value),
      } as Partial<NewSchedule>;
      onSaved(
        of
          ? await call<Schedule>("PUT", `api/schedules/${encodeURIComponent(of.name)}`, { body })
          : await call<Schedule>("POST", "api/schedules", {
            body: { ...body, name: form.name.value.trim() },
          }),
      );
    } catch (error) {
      problem.value = error as Refused;
    }
    isBusy.value = false;
  }
  return html`
    <form class="card form" onSubmit=${save} onKeyDown=${submits} aria-label=${of
      ? `Edit ${of.name}`
      : "New schedule"}>
      <${Form} of=${problem.value}>
        <div class="inside columns">
          ${!of && html`
            <${Text} label="Name" name="name" value=${form.name} isRequired maxlength=${64}
              placeholder="nightly" about="Letters, digits, dots and dashes; unique among your schedules" />
          `}
          <${Text} label="Function" name="function" value=${form
            .function} isRequired suggestions=${[...functions.value.values()].map((fn) =>
              fn.name
            )} about="What it runs" />
        </div>
        <div class="inside columns">
          <${TimeFields} kind=${form.kind} cron=${form.cron} every=${form.every} timezone=${form
            .timezone} />
        </div>
        <div class="inside columns">
          <${Select} label="If still running" name="overlap" value=${form.overlap}
            options=${OVERLAPS} />
          <${Select} label="Missed runs" name="missed" value=${form
            .missed}
            options=${MISSED} />
          <${Text} label="Jitter in seconds" name="jitter_seconds" value=${form
            .jitter} type="number"
            min=${0} max=${86_400}
            about="Each run starts up to this much later" />
        </div>
        <div class="inside columns">
          <${Area} label="Payload" name="payload" value=${form
            .payload} placeholder='{"key": "value"}'
            about="Input of each run; may be empty" />
          <div class="field"><span class="label">Environment</span>
            <${Variables} of=${form.environment.value} label="Environment" onChange=${(
              all: readonly Variable[],
            ) => {
              form.environment.value = all;
            }} /><${WrongOf} path="environment" label="Environment" />
            <small class="muted">Variables in place of the function's</small></div>
        </div>
        </${Form}>
        <footer
          class="inside actions"><button class="button primary" type="submit" disabled=${isBusy
            .value}>${of
            ? "Save"
            : "Create schedule"}</button><button class="button" type="button" onClick=${onCancel}>Cancel</button></footer>
        </form>
  `;
}

/** When it is due: a cron expression in a zone, or an interval. */
function TimeFields({ kind, cron, every, timezone }: Record<string, Signal<string>>) {
  const zones = useMemo(() => Intl.supportedValuesOf("timeZone"), []);
  const isCron = kind?.value === "cron";
  const means = USUAL.find(([expression]) => expression === cron?.value.trim())?.[1];
  return html`<${Field} label="When" isGroup><div class="chips">${
    [["cron", "by a cron expression"], ["interval", "at an interval"]].map(([option, said]) =>
      html`
        <button class="chip" type="button" key=${option} aria-pressed=${kind?.value === option}
          onClick=${() => {
            if (kind && option) kind.value = option;
          }}>${said}</button>
      `
    )
  }</div></${Field}>
    ${
    isCron
      ? html`
        <${Text} label="Cron expression" name="cron" value=${cron} isRequired isMono
          suggestions=${USUAL.map(([expression]) => expression)}
          about=${means ?? "Minute, hour, day of month, month, day of week"} />
        <${Text} label="Time zone" name="timezone" value=${timezone} isRequired
          suggestions=${zones} />
      `
      : html`
        <${Text} label="Seconds from one run to the next" name="every_seconds" value=${every}
          type="number"
          min=${1}
          max=${31_622_400} isRequired />
      `
  }`;
}
