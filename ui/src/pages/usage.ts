// The tenant's usage: over time, by function, and compared with its quota.
import { signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get } from "../api.ts";
import { html } from "../html.ts";
import { Frames } from "../parts/charts/bars.ts";
import { Choice } from "../parts/controls/choice.ts";
import { save } from "../parts/controls/download.ts";
import { useFetched, Waiting } from "../parts/lists/fetched.ts";
import { amount, bytes, count, percent } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Problem } from "../parts/lists/problem.ts";
import { Rail } from "../parts/charts/rail.ts";
import { href, note, route } from "../router.ts";
import { functions, who } from "../store.ts";
import {
  type Bars,
  barsOf,
  csvOf,
  type Limit,
  nameOf,
  type Period,
  PERIODS,
  shareOf,
  type Span,
  spanOf,
} from "../usage.ts";
import type { Quota, SystemInfo, Usage, UsageRow, UsageSums } from "../wire.ts";

interface Shown {
  span: Span;
  bars: Bars;
  total: UsageSums;
  rows: UsageRow[];
  /** GB-seconds since the start of the UTC day, to which a limit applies. */
  today: number;
  /** null unless the caller is an operator: others may not see this. */
  quota: Quota | null;
  limits: Record<string, number>;
}

const COLUMNS: Column[] = [
  { name: "Function", width: "minmax(12rem, 1fr)", sort: "name" },
  { name: "Calls", width: "6rem", class: "right", sort: "calls" },
  { name: "Errors", width: "5rem", class: "right wide", sort: "errors" },
  { name: "Cold starts", width: "6rem", class: "right wide", sort: "cold" },
  { name: "GB-seconds", width: "7rem", class: "right", sort: "memory" },
  { name: "CPU-seconds", width: "7rem", class: "right roomy", sort: "cpu" },
  { name: "Of all GB-seconds", width: "9rem", class: "roomy" },
];
const SORTS: Record<string, (row: UsageRow) => string | number> = {
  name: (row) => nameOf(row).toLowerCase(),
  calls: (row) => row.calls,
  errors: (row) => row.errors,
  cold: (row) => row.cold_starts,
  memory: (row) => row.gb_seconds,
  cpu: (row) => row.cpu_seconds,
};
const period = signal("");
const isPeriod = (text: string): text is Period => (PERIODS as string[]).includes(text);

async function ask(of: Period, signal: AbortSignal): Promise<Shown> {
  const span = spanOf(of, Date.now() / 1000);
  const { from, to, step } = span;
  const me = who.peek();
  const today = spanOf("month", Date.now() / 1000);
  const [over, by, day, info, quota] = await Promise.all([
    get<Usage>("api/usage", { from, to, step }, signal),
    get<Usage>("api/usage", { from, to, step: "all", by: "function" }, signal),
    get<Usage>("api/usage", { from: today.to - today.step_s, to: today.to, step: "day" }, signal),
    get<SystemInfo>("api/system/info", {}, signal),
    me?.scope === "operator"
      ? get<Quota>(`api/tenants/${encodeURIComponent(me.tenant_id)}/quota`, {}, signal)
      : null,
  ]);
  const bars = barsOf(over.rows, span);
  return {
    ...{ span, bars, quota, limits: info.limits, total: over.total, rows: by.rows },
    today: day.total.gb_seconds,
  };
}

const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const dateOfUtc = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  timeZone: "UTC",
});
const clock = (at: Date): string => `${String(at.getHours()).padStart(2, "0")}:00`;

function Chart({ of }: { of: Shown }) {
  const { span, bars } = of;
  const isDays = span.step === "day";
  const times = bars.at.map((unix) => new Date(unix * 1000));
  const names = times.map((at) =>
    isDays ? `${dateOfUtc.format(at)} (UTC)` : `${date.format(at)}, ${clock(at)}`
  );
  function label(n: number): string {
    const at = times[n] as Date;
    if (isDays) return dateOfUtc.format(at);
    return bars.at.length <= 24 ? clock(at) : at.getHours() === 0 ? date.format(at) : "";
  }
  const values = (value: (sums: UsageSums) => number) =>
    bars.rows.map((sums) => sums === null ? 0 : value(sums));
  const frames = [
    {
      name: "Calls",
      values: values((sums) => sums.calls),
      bad: values((sums) => sums.errors),
      said: count,
    },
    { name: "GB-seconds", values: values((sums) => sums.gb_seconds), said: amount },
    { name: "CPU-seconds", values: values((sums) => sums.cpu_seconds), said: amount },
  ];
  return html`<${Frames} frames=${frames} at=${names} label=${label} />`;
}

function Totals({ of }: { of: UsageSums }) {
  const said: [string, string, string][] = [
    ["Calls", count(of.calls), `${count(of.queued)} of them accepted to run later`],
    ["Errors", count(of.errors), percent(of.errors, of.calls)],
    ["GB-seconds", amount(of.gb_seconds), "memory limit × duration"],
    ["CPU-seconds", amount(of.cpu_seconds), "measured"],
  ];
  return html`<dl class="figures">${
    said.map(([name, figure, about]) =>
      html`
        <div key=${name}>
          <dt>${name}</dt>
          <dd class="num">${figure}</dd>
          <dd class="about">${about}</dd>
        </div>
      `
    )
  }</dl>`;
}

/** The tenant's limits. Only operators see how much of calls at once and of images is used. */
function limitsOf({ quota, today, limits: of }: Shown): Limit[] {
  const used = quota?.used;
  return [
    {
      name: "GB-seconds today (UTC)",
      used: used?.gb_seconds_today ?? today,
      limit: (quota?.gb_seconds_per_day ?? of["tenant_gb_seconds_per_day"]) || null, // 0: none
      said: amount,
    },
    {
      name: "Functions",
      used: used?.functions ?? functions.value.size,
      limit: quota?.functions ?? of["tenant_functions"] ?? null,
      said: count,
    },
    {
      name: "Calls at once",
      used: used?.calls_in_flight ?? null,
      limit: quota?.calls_in_flight ?? of["tenant_calls_in_flight"] ?? null,
      said: count,
    },
    {
      name: "Calls a second",
      used: null,
      limit: (quota?.calls_per_second ?? of["tenant_calls_per_second"]) || null,
      said: count,
    },
    {
      name: "Images of runtimes",
      used: used?.image_bytes ?? null,
      limit: quota?.image_bytes ?? of["tenant_image_bytes"] ?? null,
      said: bytes,
    },
  ];
}

function Limits({ of }: { of: Shown }) {
  return html`
    <section class="card after" aria-labelledby="limits">
      <header>
        <h2 id="limits">Limits of the tenant ${who.value?.tenant_id}</h2>
      </header>
      <dl class="limits">${limitsOf(of).map((limit) => {
        const share = shareOf(limit);
        const most = limit.limit === null ? "no limit" : limit.said(limit.limit);
        const said = limit.used === null
          ? limit.limit === null ? most : `at most ${most}`
          : limit.limit === null
          ? `${limit.said(limit.used)}, ${most}`
          : `${limit.said(limit.used)} of ${most}`;
        const kind = share !== null && share >= 0.9 ? "full" : "used";
        return html`<div key=${limit.name}><dt>${limit.name}</dt><dd class="num">${said}</dd>${
          share !== null && html`
            <dd>
              <${Rail} parts=${[{ kind, size: share }]} whole=${1}
                said=${percent(limit.used ?? 0, limit.limit ?? 0)} />
            </dd>
          `
        }</div>`;
      })}</dl>
    </section>
  `;
}

function Row({ row, tabindex, whole }: { row: UsageRow; tabindex: number; whole: number }) {
  const name = nameOf(row);
  const errors = row.errors;
  return html`
    <span role="cell" class="name"><div>${row.function_name !== null && row.function_id !== null
      ? html`<a href=${href(["functions", row.function_id])} tabindex=${tabindex}>${name}</a>`
      : html`<span class="muted">${name}</span>`}${row.function_name === null && row.function_id &&
      html`<small class="mono">${row.function_id}</small>`}</div></span>
    <span role="cell" class="num right">${count(row.calls)}<span class="narrow muted small"
      > ${row.calls === 1 ? "call" : "calls"}</span></span>
    <span role="cell" class=${`num right wide ${errors ? "some" : ""}`}>${count(errors)}</span>
    <span role="cell" class="num right wide">${count(row.cold_starts)}</span>
    <span role="cell" class="num right">${amount(row.gb_seconds)}<span class="narrow muted small"
      > GB-s</span></span>
    <span role="cell" class="num right roomy">${amount(row.cpu_seconds)}</span>
    <span role="cell" class="roomy"><${Rail} parts=${[{ kind: "used", size: row.gb_seconds }]}
      whole=${whole || 1} said=${percent(row.gb_seconds, whole)} /></span>
  `;
}

function Table({ of }: { of: Shown }) {
  const sorted = useSignal({ by: "memory", isDown: true });
  const { by, isDown } = sorted.value;
  const value = SORTS[by] as (row: UsageRow) => string | number;
  const keyed = of.rows.map((row) => ({ row, key: value(row) }));
  keyed.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0) * (isDown ? -1 : 1));
  const whole = of.total.gb_seconds;
  const file = () =>
    save(
      new Blob([csvOf(keyed.map(({ row }) => row), of.span)], { type: "text/csv" }),
      `usage-${new Date(of.span.from * 1000).toISOString().slice(0, 10)}.csv`,
    );
  return html`
    <div
      class="bar after"><h2>By function</h2><span class="muted num">${count(
        of.rows.length,
      )}</span><button class="button push" type="button" onClick=${file}>Download as CSV</button></div>
    <${List} label="Usage by function" columns=${COLUMNS}
      items=${keyed.map(({ row }) => row)} sorted=${sorted.value} onSort=${(chosen: string) => {
        sorted.value = { by: chosen, isDown: chosen === by ? !isDown : chosen !== "name" };
      }} keyOf=${(row: UsageRow) => row.function_id ?? ""} cells=${(
        row: UsageRow,
        tabindex: number,
      ) => html`<${Row} row=${row} tabindex=${tabindex} whole=${whole} />`} />
  `;
}

export default function UsagePage() {
  useEffect(() => {
    const wanted = route.peek().query.get("period") ?? "";
    period.value = isPeriod(wanted) ? wanted : "";
  }, []);
  const shown: Period = isPeriod(period.value) ? period.value : "day";
  const isKnown = who.value !== null; // the quota may be shown only to some callers
  useEffect(() => note({ period: period.value }), [period.value]);
  const { value, problem, again } = useFetched(
    (signal) => isKnown ? ask(shown, signal) : Promise.resolve(null),
    [shown, isKnown],
  );
  const found = value.value;
  return html`
    <div class="bar">
      <h1>Usage</h1>
      <${Choice} label="Time" options=${PERIODS} chosen=${period}
        usual="day" />
    </div>
    ${problem.value && html`<${Problem} of=${problem.value} onRetry=${again} />`}
    ${found
      ? html`
        <section class="card" aria-label="Together">
          <${Totals} of=${found.total} />
          <div class="inside">${found.total.calls > 0
            ? html`<${Chart} of=${found} />`
            : html`<p class="empty">Nothing was called in this time.</p>`}</div>
        </section>
        <${Limits} of=${found} />
        ${found.rows.length > 0 && html`<${Table} of=${found} />`}
      `
      : !problem.value && html`<${Waiting} />`}
  `;
}
