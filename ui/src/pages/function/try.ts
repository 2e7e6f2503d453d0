// The panel for invoking a function by hand.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { elsewhereSaid, servingVersions, targetSaid, targetsOf } from "../../aliases.ts";
import { credential, get } from "../../api.ts";
import { callLine } from "../../command.ts";
import { useEvents } from "../../hearing.ts";
import { isBinary } from "../../hex.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/text/ansi.ts";
import { callPath } from "../../parts/invocation/call.ts";
import { Copy } from "../../parts/controls/copy.ts";
import { useFetched } from "../../parts/lists/fetched.ts";
import { counted, duration } from "../../parts/text/format.ts";
import { HexOutput } from "../../parts/text/hex.ts";
import { CTRL_ENTER } from "../../parts/text/keys.ts";
import { Notice } from "../../parts/lists/notice.ts";
import { Output } from "../../parts/invocation/output.ts";
import { refuseLong } from "../../parts/controls/paste.ts";
import { isInSight, revealGrowing } from "../../parts/controls/reveal.ts";
import { Status } from "../../parts/invocation/status.ts";
import { toastError } from "../../parts/controls/toast.ts";
import { Variables } from "../../parts/controls/variables.ts";
import { coldSentence } from "../../parts/charts/waterfall.ts";
import { href } from "../../router.ts";
import { masked } from "../../secrets.ts";
import { whyNotInvoked } from "../../standing.ts";
import { now } from "../../store.ts";
import {
  aboutPayload,
  bodyOf,
  cancel,
  history,
  type Mode,
  queryOf,
  type Run,
  start,
  type Trial,
  trialOf,
} from "../../trying.ts";
import type { AliasList, Function, VersionPage } from "../../wire.ts";

const MODES: [Mode, string][] = [
  ["stream", "Watch: output as it comes"],
  ["sync", "Wait for the answer"],
  ["async", "Queue it"],
];
const SHOWN_CHARACTERS = 60;
const QUICK_MS = 2_000;
const VERSIONS = 20; // maximum versions offered, newest first

const valueOf = (event: Event): string => (event.target as HTMLInputElement).value;

function Payload({ id, trial }: { id: string; trial: Trial }) {
  const earlier = history(id);
  const text = trial.payload.value;
  return html`
    <div class="field"><label for="payload">Payload</label>
      <textarea id="payload" rows="4" spellcheck="false" value=${text}
        placeholder="Text, often JSON; may be empty" aria-describedby="payload-about"
        onPaste=${refuseLong}
        onInput=${(event: Event) => {
          trial.payload.value = valueOf(event);
        }} />
      <small id="payload-about" class="muted">${trial.isUnknown.value && text === ""
        ? "What that call was given was not kept."
        : aboutPayload(text)}</small></div>
    ${earlier.length > 0 && html`
      <div class="field"><label for="earlier">Sent earlier</label><select class="text mono" id="earlier"
        value="" onChange=${(event: Event) => {
          const chosen = earlier[Number(valueOf(event))];
          if (chosen !== undefined) trial.payload.value = chosen;
          (event.target as HTMLSelectElement).value = "";
        }}><option value="">${counted(earlier.length, "payload")} of this tab</option>${earlier.map(
          (payload, n) =>
            html`<option value=${n} key=${n}>${
              payload.replace(/\s+/g, " ").slice(0, SHOWN_CHARACTERS)
            }</option>`,
        )}</select></div>
    `}
  `;
}

/** The choice of version or alias, if there is one. */
function Target({ fn, trial }: { fn: Function; trial: Trial }) {
  const path = `api/functions/${fn.id}`;
  const { value, again } = useFetched(async (signal) => {
    const [{ aliases }, { versions }] = await Promise.all([
      get<AliasList>(`${path}/aliases`, {}, signal),
      get<VersionPage>(`${path}/versions`, { limit: VERSIONS }, signal),
    ]);
    return targetsOf(aliases, versions.map(({ version }) => version), fn.current_version);
  }, [fn.id, fn.current_version, fn.updated_at]);
  useEvents(fn.id, /^alias\./, 0, again);
  const targets = value.value ?? [];
  const chosen = trial.target.value;
  if (targets.length < 2 && chosen === "") return null;
  const isGone = !targets.some(([target]) => target === chosen);
  const all = isGone ? [...targets, [chosen, chosen.replace("=", " ")] as const] : targets;
  return html`
    <div class="field"><label for="target">Runs on</label><select class="text" id="target"
      value=${chosen} onChange=${(event: Event) => {
        trial.target.value = valueOf(event);
      }}>${all.map(([target, said]) =>
        html`<option value=${target} key=${target} selected=${target === chosen}>${said}</option>`
      )}</select></div>
  `;
}

function How({ id, trial }: { id: string; trial: Trial }) {
  const variables = trial.variables.value;
  const body = bodyOf(trial);
  const how = {
    hasKey: credential.get() !== null,
    isQueued: trial.mode.value === "async",
    query: queryOf(trial),
  };
  return html`
    <div class="field"><label for="mode">How</label><select class="text" id="mode" value=${trial
      .mode}
      onChange=${(event: Event) => {
        trial.mode.value = valueOf(event) as Mode;
      }}>${MODES.map(([mode, said]) =>
        html`<option value=${mode} key=${mode} selected=${
          mode === trial.mode.value
        }>${said}</option>`
      )}</select></div>
    <details open=${variables.length > 0}>
      <summary>Environment variables of this call${variables.length > 0
        ? `: ${variables.length}`
        : ""}</summary>
      <${Variables} of=${variables} label="Environment variables of this call" onChange=${(
        all: Trial["variables"]["value"],
      ) => {
        trial.variables.value = all;
      }} />
    </details>
    <details>
      <summary>This call from a terminal</summary>
      <${Copy} text=${callLine(id, body, how)} shown=${callLine(id, {
        ...body,
        ...(body.environment && { environment: masked(body.environment) }),
      }, how)} />
    </details>
  `;
}

/** The progress of the invocation in one line, with the reason for a cold start. */
function Outcome({ fn, run }: { fn: Function; run: Run }) {
  const { record, timeline } = run;
  const seconds = Math.max(0, Math.round(now.value - run.began / 1000));
  const status = run.isOver ? record?.status : record?.status ?? "running";
  const id = record?.invocation_id ?? run.id;
  return html`
    <div class="outcome"
      role="status">${status && html`<${Status} of=${status} />`}${run.isOver
        ? record &&
          html`<span class="num">${duration(record.duration_ms)}</span>${
            record.exit_code !== null &&
            html`<span class="num muted">exit ${record.exit_code}</span>`
          }`
        : html`<span class="num muted">${seconds} s</span>`}${record?.cold_start &&
        html`<span class="cold">cold</span>`}${timeline?.version &&
        html`<span class="num muted">version ${timeline.version}</span>`}${timeline?.version &&
        run.target === "" && !servingVersions(fn).includes(timeline.version) &&
        html`<span class="badge old">not ${
          elsewhereSaid(fn) || `version ${fn.current_version}`
        }, which serves now</span>`}${id &&
        html`<a href=${href(["functions", fn.id, "invocations", id])}>This call</a>`}</div>
    ${run.problem && html`<${Notice} of=${run.problem} />`}
    ${record?.error_message &&
      html`<p class="small ended">${visible(record.error_message)}</p>`}
    ${timeline?.cold_start && html`<p class="small muted">${coldSentence(timeline)}</p>`}
  `;
}

function Written({ id, run }: { id: string; run: Run }) {
  const { stdout, stderr } = run;
  if (stdout || stderr) {
    const isBad = run.isOver && run.record?.status !== "success";
    const shown = (stream: "stdout" | "stderr", label: string, isError: boolean) => {
      const text = run[stream];
      if (!text) return null;
      return run.isOver && run.id !== null && isBinary(text)
        ? html`<${HexOutput} path=${callPath(id, run.id)} stream=${stream} label=${label} />`
        : html`<${Output} text=${text} label=${label} isError=${isError} />`;
    };
    return html`${shown("stdout", "Output", false)}${shown("stderr", "Log", isBad)}`;
  }
  return html`<div class="output waiting">${
    run.problem ? "" : run.isOver ? "No output" : "Nothing yet."
  }</div>`;
}

export function TryIt({ fn }: { fn: Function }) {
  const trial = trialOf(fn.id);
  const run = trial.run.value;
  const isRunning = run !== null && !run.isOver;
  const stopping = useSignal(false);
  const box = useRef<HTMLElement>(null);
  // whether this panel, since it was opened, has started the invocation
  const isBegun = useRef(false);
  const whyNot = whyNotInvoked(fn, trial.mode.value);
  const begin = () => {
    if (whyNot !== null) return;
    stopping.value = false;
    isBegun.current = true;
    start(fn.id, trial);
  };
  useEffect(() => {
    if (run === null || !isBegun.current) return;
    const outcome = box.current?.querySelector(".outcome") ?? null;
    // Do not scroll if the user is reading elsewhere during a long invocation.
    const isWatched = Date.now() - run.began < QUICK_MS || isInSight(outcome);
    if (!run.isOver || isWatched) return revealGrowing(outcome, box.current);
  }, [run?.began, run?.isOver]);
  async function stop() {
    stopping.value = true;
    await cancel(fn.id, trial).catch(toastError);
  }
  function keys(event: KeyboardEvent) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      begin();
    } else if (event.key === "Escape" && isRunning) {
      event.preventDefault();
      stop();
    }
  }
  return html`
    <section class="card column" aria-labelledby="try" ref=${box}
      onKeyDown=${keys}><header><h2 id="try">Try it</h2
      ><span class="num muted small">calls ${targetSaid(
        trial.target.value,
      )}</span><span class="push" /> ${isRunning &&
        html`
          <button class="button" type="button"
            onClick=${stop}>${stopping.value
              ? "Cancelling …"
              : "Cancel"} <kbd class="wide" aria-hidden="true">Esc</kbd></button>
        `}<button class="button primary" type="button"
          aria-disabled=${isRunning ||
            whyNot !== null} title=${whyNot} onClick=${begin}>Call <kbd class="wide"
          aria-hidden="true">${CTRL_ENTER}</kbd></button></header>
      <div class="inside">${whyNot !== null &&
        html`<p class="muted refused-now">${whyNot}</p>`}<${Payload} id=${fn
        .id} trial=${trial} /><${Target} fn=${fn} trial=${trial} /><${How} id=${fn
        .id} trial=${trial} />
        ${run && html`<${Outcome} fn=${fn} run=${run} />`}</div>
      ${run
        ? html`<${Written} id=${fn.id} run=${run} />`
        : html`<div class="output waiting">Output appears here</div>`}</section>
  `;
}
