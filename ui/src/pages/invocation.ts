// One invocation: its timeline, input, output, and actions.
import { useSignal } from "@preact/signals";
import { call, get, type Refused } from "../api.ts";
import { html } from "../html.ts";
import type { PageProps } from "../page_props.ts";
import { visible } from "../parts/text/ansi.ts";
import { Attempts } from "../parts/invocation/attempts.ts";
import { callPath, isOver, useCall } from "../parts/invocation/call.ts";
import { useFetched, Waiting } from "../parts/lists/fetched.ts";
import { duration, exact } from "../parts/text/format.ts";
import { Names } from "../parts/text/names.ts";
import { Notice } from "../parts/lists/notice.ts";
import { OutputReader } from "../parts/invocation/output_reader.ts";
import { Printable } from "../parts/text/printable.ts";
import { Replay } from "../parts/invocation/replay.ts";
import { FROM } from "../parts/text/source.ts";
import { isHttpError, Status } from "../parts/invocation/status.ts";
import { Ago, Ahead } from "../parts/text/time.ts";
import { useTitle } from "../parts/text/title.ts";
import { toast, toastError } from "../parts/controls/toast.ts";
import { Waterfall } from "../parts/charts/waterfall.ts";
import { Why } from "../parts/invocation/why.ts";
import { callerOf, may } from "../scope.ts";
import { go, href } from "../router.ts";
import { asResponse } from "../server_response.ts";
import { now } from "../store.ts";
import { prepare } from "../trying.ts";
import type { Invocation, InvocationInput, Timeline } from "../wire.ts";

const linkOf = (functionId: string, id: string) =>
  href(["functions", functionId, "invocations", id]);

/** Time beyond the handler's own is mentioned from this minimum on. */
const WORTH_TELLING_MS = 1;

function Facts({ of, timeline }: { of: Invocation; timeline: Timeline | null }) {
  const isRunning = of.status === "running" && of.started_at !== null;
  const inAll = (timeline?.total_microseconds ?? 0) / 1000;
  return html`<p class="facts">
      ${of.started_at !== null && html`<span>began <b><${Ago} at=${of.started_at} /></b></span>`}
      ${
    isRunning
      ? html`<span>for <b class="num">${
        duration(1000 * Math.max(0, Math.round(now.value - (of.started_at ?? 0))))
      }</b></span>`
      : of.duration_ms !== null &&
        html`<span>took <b class="num">${duration(of.duration_ms)}</b></span>`
  }
      ${
    of.duration_ms !== null && inAll - of.duration_ms >= WORTH_TELLING_MS &&
    html`<span>in all <b class="num">${duration(inAll)}</b></span>`
  }
      ${of.exit_code !== null && html`<span>exit code <b class="num">${of.exit_code}</b></span>`}
      ${timeline?.version && html`<span>version <b class="num">${timeline.version}</b></span>`}
      ${
    timeline?.source &&
    html`<span title=${FROM[timeline.source]}>source <b>${timeline.source}</b></span>`
  }
      <span>on <b>${of.execution_node_id}</b></span>
      <span class="mono small">${of.invocation_id}</span></p>`;
}

/** The timeline, or the reason for which the invocation waits. */
function Times({ of, timeline }: { of: Invocation; timeline: Timeline | null }) {
  const due = timeline?.due_at ?? null;
  if (of.status === "queued") {
    return html`
      <section class="card" aria-labelledby="times">
        <header>
          <h2 id="times">In the queue</h2>
        </header>
        <p class="inside">${due !== null && due > now.value
          ? html`It is due <b><${Ahead} at=${due} /></b>, at ${exact(due)}.`
          : html`It waits for an instance${
            due !== null && html`, since <b><${Ago} at=${due} /></b>`
          }.`}</p>
      </section>
    `;
  }
  if (!timeline || timeline.phases.length === 0) return null;
  return html`
    <section class="card" aria-labelledby="times">
      <header>
        <h2 id="times">Where the time went</h2>
      </header>
      <div class="inside">
        <${Waterfall} timeline=${timeline} />
      </div>
    </section>
  `;
}

function Input(
  { functionId, of, isKept, onReplay }: {
    functionId: string;
    of: Invocation;
    isKept: boolean | undefined;
    onReplay: () => void;
  },
) {
  const path = callPath(functionId, of.invocation_id);
  const { value, problem } = useFetched(
    (signal) => isKept ? get<InvocationInput>(`${path}/input`, {}, signal) : Promise.resolve(null),
    [path, isKept],
  );
  const given = value.value;
  const isMissing = isKept === false || problem.value?.status === 404;
  async function keep() {
    try {
      await call("PUT", `api/functions/${functionId}/record-policy`, {
        body: { keep_input: "all" },
      });
      toast("The inputs of all calls are kept from now on.");
    } catch (error) {
      toastError(error as Refused);
    }
  }
  const names = Object.keys(given?.environment ?? {});
  return html`<section class="card" aria-labelledby="input"><header><h2 id="input">Input</h2>
      ${
    given && html`<button class="button push" type="button" onClick=${onReplay}>Replay …</button>`
  }</header>
    ${
    given
      ? html`${
        given.payload === null
          ? html`<p class="inside muted">It was given no payload.</p>`
          : html`<${Printable} text=${given.payload} label="Payload" />`
      }
        <dl class="pairs"><dt>From</dt><dd>${callerOf(given.caller)}</dd>
          ${
        names.length > 0 &&
        html`
          <dt>In place of the function's</dt>
          <dd>
            <${Names} of=${names} />
          </dd>
        `
      }</dl>`
      : isMissing
      ? html`
        <div class="inside">
          <p class="muted">It was not kept: of calls that somebody waits for, inputs are kept only where
            the function's setting${" "}<code>keep_input</code> is <code>all</code> (<a href=${href(
              [
                "functions",
                functionId,
                "async",
              ],
            )}>what is kept of calls</a>).</p>
          <div class="buttons">${may("invoke") && html`
            <button class="button" type="button" onClick=${() => {
              prepare(functionId, of.invocation_id);
              go(href(["functions", functionId]));
            }}>Call again …</button>
          `}${may("write") && html`
            <button class="button" type="button" onClick=${keep}>Keep inputs from now on</button>
          `}</div>
        </div>
      `
      : problem.value?.status === 403
      ? html`<p class="inside muted">Only keys with scope write see what a call was given.</p>`
      : problem.value
      ? html`<${Notice} of=${problem.value} />`
      : html`<${Waiting} />`
  }</section>`;
}

/** The variables of an invocation, the invocations that it repeats and that caused it, and those
 * that it caused.
 */
function Around({ of, timeline }: { of: Invocation; timeline: Timeline }) {
  const { environment_names: names = [], children = [] } = timeline;
  const parent = timeline.parent_invocation_id;
  const parentFunction = timeline.parent_function_id;
  const origin = timeline.origin_invocation_id;
  return html`
    <section class="card after" aria-labelledby="around">
      <header>
        <h2 id="around">Environment and related calls</h2>
      </header>
      <dl class="pairs"><dt>Variables</dt><dd><${Names} of=${names} /></dd>
          ${origin &&
            html`
              <dt>Repeats</dt>
              <dd><a class="mono small" href=${linkOf(of.function_id, origin)}>${origin}</a></dd>
            `}
          ${parent && html`
            <dt>Caused by</dt>
            <dd class="mono small">${parentFunction
              ? html`<a href=${linkOf(parentFunction, parent)}>${parent}</a>`
              : parent}</dd>
          `}
          ${children.length > 0 &&
            html`
              <dt>It caused</dt>
              <dd>
                <ul class="plain">${children.map((child) =>
                  html`<li key=${child.invocation_id}><${Status} of=${child.status} http=${child.http_status} isQuiet />
          <a href=${linkOf(child.function_id, child.invocation_id)}>${child.function_name}</a></li>`
                )}</ul>
              </dd>
            `}</dl>
    </section>
  `;
}

function Share() {
  const copy = () =>
    navigator.clipboard.writeText(location.href).then(
      () => toast("The link is copied."),
      toastError,
    );
  return html`<button class="button" type="button" onClick=${copy}>Copy link</button>`;
}

export default function InvocationPage(
  { function_id: id = "", invocation_id: callId = "" }: PageProps,
) {
  const { record, timeline, written, problem, again } = useCall(id, callId);
  const isReplayed = useSignal(false);
  const isCancelling = useSignal(false);
  const invocation = record.value;
  useTitle(invocation ? `${invocation.status}, ${invocation.function_name}` : "Invocation");
  if (problem.value && !invocation) return html`<${Notice} of=${problem.value} onRetry=${again} />`;
  if (!invocation) return html`<${Waiting} />`;
  const isLive = !isOver(invocation.status),
    isBad = invocation.status !== "success" || isHttpError(invocation);
  const times = timeline.value;
  const path = callPath(id, callId);

  async function cancel() {
    isCancelling.value = true;
    try {
      record.value = await call<Invocation>("POST", `${path}/cancel`);
      await again();
    } catch (error) {
      toastError(error as Refused);
    }
    isCancelling.value = false;
  }
  const shown = {
    isLive,
    path,
    fileName: `${invocation.function_name}-${invocation.invocation_id}`,
  };
  return html`
    <p class="crumbs"><a href="#/">Functions</a> / <a href=${href(["functions", id])}>${invocation
      .function_name}</a> / invocation</p>
        <div
      class="title"><h1>Call of ${invocation
        .function_name}</h1><span role="status"><${Status} of=${invocation
        .status} http=${invocation.http_status} /></span>
          ${invocation.cold_start && html`<span class="cold">cold</span>`}
          <span class="actions">${isLive &&
            html`<button class="button danger" type="button" disabled=${isCancelling.value} onClick=${cancel}>Cancel</button>`}<${Share} /></span></div>
        <${Facts} of=${invocation} timeline=${times} />
        ${times && isBad && invocation.status !== "running"
          ? html`<${Why} of=${invocation} times=${times} />`
          : invocation.error_message &&
            html`<p class="notice">${visible(invocation.error_message)}</p>`}
        <div class="sided">
      <div><${Times} of=${invocation} timeline=${times} />
            <${Attempts} path=${path} of=${times?.attempts ?? []}
              isQueued=${invocation.status === "queued"} />
            ${invocation.status !== "queued" &&
              html`
                <${OutputReader} stream="stdout" title="Output"
                  text=${asResponse(written.value.stdout, invocation.http_status)} ...${shown} />
                          ${(isLive || written.value.stderr) &&
                            html`
                              <${OutputReader} stream="stderr" title="Log" text=${written.value
                                .stderr}
                                isError=${isBad} ...${shown} />
                            `}
              `}</div>
      <div><${Input} functionId=${id} of=${invocation} isKept=${times?.has_input} onReplay=${() => {
        isReplayed.value = true;
      }} />
            ${times && html`<${Around} of=${invocation} timeline=${times} />`}</div>
    </div>
        ${isReplayed.value &&
          html`<${Replay} functionId=${id} invocationId=${callId} onClose=${() => {
            isReplayed.value = false;
          }} />`}
  `;
}
