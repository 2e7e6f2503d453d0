// The current activity of a function: an invoke panel, its invocations over time, and the latest ones.
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { get } from "../../api.ts";
import { useEvents } from "../../hearing.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/text/ansi.ts";
import { Chart, ChartLegend } from "../../parts/charts/chart.ts";
import { useFetched, Waiting } from "../../parts/lists/fetched.ts";
import { about, count, duration, percent } from "../../parts/text/format.ts";
import { Notice } from "../../parts/lists/notice.ts";
import { FROM } from "../../parts/text/source.ts";
import { HttpStatus, Status } from "../../parts/invocation/status.ts";
import { Ago } from "../../parts/text/time.ts";
import { href, note, route } from "../../router.ts";
import { may } from "../../scope.ts";
import { reasonOf } from "../../standing.ts";
import { filled, type Period, PERIODS, queryOf, sums } from "../../series.ts";
import type { Function, InvocationSummary, InvocationSummaryPage, Series } from "../../wire.ts";
import { TryIt } from "./try.ts";

const CALLS = /^(invocation\.|calls$)/;
const LATEST = 15;
const AGAIN_MS = 500; // for both chart and list, so that they agree
const COUNTED_AFTER_MS = 300; // an invocation is counted shortly after its end event

const names = Object.keys(PERIODS) as Period[];
const SAID: Record<Period, string> = { hour: "Last hour", day: "Last day", week: "Last week" };
const AFRESH_MS = 30_000; // time passes even without invocations

function OverTime({ id }: { id: string }) {
  const wanted = route.peek().query.get("period") as Period;
  const period = useSignal<Period>(names.includes(wanted) ? wanted : "hour");
  const { value, problem, again } = useFetched(
    (signal) =>
      get<Series>(`api/functions/${id}/series`, queryOf(period.peek(), Date.now() / 1000), signal),
    [id, period.value],
  );
  useEvents(id, CALLS, AGAIN_MS, async () => {
    await new Promise((resolve) => setTimeout(resolve, COUNTED_AFTER_MS));
    await again();
  });
  useEffect(() => {
    const timer = setInterval(again, AFRESH_MS);
    return () => clearInterval(timer);
  }, [id]);
  const data = value.value;
  return html`
    <section class="card"
      aria-labelledby="over-time"><header class="wraps"><h2 id="over-time">${SAID[
        period.value
      ]}</h2><div class="chips push" role="group" aria-label="Period">${names.map((option) =>
        html`
          <button class="chip" type="button" key=${option} aria-pressed=${option === period.value}
            onClick=${() => {
              period.value = option;
              note({ period: option === "hour" ? null : option });
            }}>${option}</button>
        `
      )}</div></header>
      ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
      ${!data ? html`<${Waiting} />` : html`
        <${Figures} data=${data} />
        <div class="inside charted">
          ${data.points.length === 0
            ? html`<p class="empty">No invocations in this period</p>`
            : html`
              <${ChartLegend} />
              <${Chart} data=${filled(data)} />
            `}
        </div>
      `}</section>
  `;
}

const P99_TITLE = "Estimated from a histogram: within 5 % of what the calls took";

function Figures({ data }: { data: Series }) {
  const { calls, errors, cold, slowest } = sums(data);
  const all = [
    ["Calls", count(calls)],
    ["Errors", percent(errors, calls)],
    ["Cold starts", percent(cold, calls)],
    ["Highest p99", about(slowest), P99_TITLE],
  ];
  return html`<div class="figures num">${
    all.map(([name, value, title]) =>
      html`
        <dl key=${name} title=${title}>
          <dt>${name}</dt>
          <dd>${value}</dd>
        </dl>
      `
    )
  }</div>`;
}

function Call({ of }: { of: InvocationSummary }) {
  const to = href(["functions", of.function_id, "invocations", of.invocation_id]);
  return html`
    <tr>
      <td>
        <${Status} of=${of.status} http=${of.http_status} />
        ${of.attempt > 1 && html`<div class="small muted num">attempt ${of.attempt}</div>`}
        <div class="narrow small muted">
          ${visible(reasonOf(of) ?? "")}
        </div>
      </td>
      <td class="num"><a href=${to}><${Ago}
        at=${of.started_at ?? of.due_at} /></a></td>
      <td class="num right">${duration(of.duration_ms)}</td>
      <td class="wide num right">
        <${HttpStatus} of=${of} />
      </td>
      <td class="wide small long">
        ${visible(reasonOf(of) ?? "")}
      </td>
      <td class="wide">${of.cold_start
        ? html`<span class="cold">cold</span>`
        : html`<span class="muted">warm</span>`}</td>
      <td class="wide muted" title=${`Asked for by ${FROM[of.source] ?? of.source}`}>${of
        .source}</td>
      <td class="wide num muted">${of.version === null ? "" : `v${of.version}`}</td>
      <td class="roomy mono muted small">${of.invocation_id}</td>
    </tr>
  `;
}

function Latest({ fn }: { fn: Function }) {
  const { value, problem, again } = useFetched(
    (signal) =>
      get<InvocationSummaryPage>("api/invocations", {
        function_id: fn.id,
        limit: LATEST,
      }, signal),
    [fn.id],
  );
  useEvents(fn.id, CALLS, AGAIN_MS, again);
  const found = value.value?.invocations;
  return html`
    <section class="card" aria-labelledby="latest"><header><h2 id="latest">Latest calls</h2>
      <a class="push" href=${href(["invocations"], { function: fn.id })}>All of them</a></header>
      ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
      ${!found
        ? html`<${Waiting} />`
        : (found.length === 0
          ? html`<p class="empty">It has not been called.${
            fn.state === "pending" ? " Deploy it first." : ""
          }</p>`
          : html`
            <div class="scrolls">
              <table class="table">
                <thead>
                  <tr>
                    <th>Status</th>
                    <th>Started</th>
                    <th class="right">Duration</th>
                    <th class="wide right">HTTP</th>
                    <th class="wide">Reason</th>
                    <th class="wide">Start</th>
                    <th class="wide">Source</th>
                    <th class="wide">Version</th>
                    <th class="roomy">Id</th>
                  </tr>
                </thead>
                <tbody>${found.map((each) =>
                  html`<${Call} of=${each} key=${each.invocation_id} />`
                )}</tbody>
              </table>
            </div>
          `)}</section>
  `;
}

export function Overview({ fn }: { fn: Function }) {
  return html`
    <div class=${may("invoke") ? "grid" : "after"}>${may("invoke") &&
      html`<${TryIt} fn=${fn} />`}<${OverTime} id=${fn.id} /></div>
    <${Latest} fn=${fn} />
  `;
}
