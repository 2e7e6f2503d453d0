// The invocations of all functions, newest first, updated live.
import { signal, useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { html } from "../html.ts";
import { visible } from "../parts/text/ansi.ts";
import { Endless, useEndless } from "../parts/lists/endless.ts";
import { Waiting } from "../parts/lists/fetched.ts";
import { count, counted, duration } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Notice } from "../parts/lists/notice.ts";
import { FROM } from "../parts/text/source.ts";
import { HttpStatus, Status } from "../parts/invocation/status.ts";
import { Ago, Ahead } from "../parts/text/time.ts";
import { href, note, route } from "../router.ts";
import { cameTo } from "../standing.ts";
import { functions, now } from "../store.ts";
import { type InvocationSummary, type InvocationSummaryPage, SOURCES, STATUSES } from "../wire.ts";

const COLUMNS: Column[] = [
  { name: "Function", width: "minmax(12rem, 1fr)" },
  { name: "Started", width: "6.5rem", class: "right" },
  { name: "Duration", width: "5.5rem", class: "right" },
  { name: "HTTP", width: "3rem", class: "right wide" },
  { name: "Start", width: "3rem", class: "wide" },
  { name: "Source", width: "5.5rem", class: "wide" },
  { name: "Version", width: "3.5rem", class: "right wide" },
  { name: "Invocation", width: "9.5rem", class: "roomy" },
];
const PERIODS: Record<string, number> = { "1h": 3600, "24h": 86_400, "7d": 7 * 86_400 };
const CALLS = /^(invocation\.|calls$)/;
const LOOKED_AT_EVERY_MS = 500;

/** The filter in the page's address. */
const filters = {
  function: signal(""),
  status: signal(""),
  start: signal(""),
  source: signal(""),
  slow: signal(""),
  since: signal(""),
};
type Filter = keyof typeof filters;
const NAMES = Object.keys(filters) as Filter[];

const values = (): Record<Filter, string> =>
  Object.fromEntries(NAMES.map((name) => [name, filters[name].value])) as Record<Filter, string>;

/** The query of the route. `now`: Unix seconds. */
export function queryOf(of: Record<Filter, string>, now: number) {
  const period = PERIODS[of.since];
  return {
    function_id: of.function || null,
    status: of.status || null,
    cold_start: of.start === "" ? null : of.start === "cold",
    source: of.source || null,
    min_duration_ms: /^\d{1,9}$/.test(of.slow) ? Number(of.slow) : null,
    from: period ? Math.floor(now - period) : null,
  };
}

function Row({ invocation, tabindex }: { invocation: InvocationSummary; tabindex: number }) {
  const to = href(["functions", invocation.function_id, "invocations", invocation.invocation_id]);
  return html`
    <span role="cell" class="name"><${Status} of=${invocation.status} http=${invocation
      .http_status} isQuiet />
          <div><a href=${to} tabindex=${tabindex}>${invocation.function_name}</a
            ><small>${visible(cameTo(invocation))}</small></div></span>
    <span role="cell" class="num small right">${invocation.started_at === null &&
        invocation.due_at !== null &&
        invocation.due_at > now.value
      ? html`<${Ahead} at=${invocation.due_at} />`
      : html`<${Ago} at=${invocation.started_at ?? invocation.due_at} />`}</span>
    <span role="cell" class="num small right">${duration(invocation.duration_ms)}</span>
    <span role="cell" class="num small right wide"><${HttpStatus} of=${invocation} /></span>
    <span role="cell" class="small wide">${invocation.started_at !== null &&
      (invocation.cold_start
        ? html`<span class="cold">cold</span>`
        : html`<span class="muted">warm</span>`)}</span>
    <span role="cell" class="small muted wide" title=${`Asked for by ${
      FROM[invocation.source] ?? invocation.source
    }`}>${invocation.source}</span>
    <span role="cell" class="num small muted right wide">${invocation.version !== null &&
      `v${invocation.version}`}</span>
    <span role="cell" class="mono small muted roomy clip">${invocation.invocation_id}</span>
  `;
}

function Pick(
  { label, of, options }: { label: string; of: Filter; options: [value: string, said: string][] },
) {
  return html`
    <select class="pick" aria-label=${label} value=${filters[of].value}
      onChange=${(event: Event) => {
        filters[of].value = (event.target as HTMLSelectElement).value;
      }}>${options.map(([option, said]) =>
        html`<option value=${option} key=${option}>${said}</option>`
      )}</select>
  `;
}

const same = (all: readonly string[]): [string, string][] => all.map((name) => [name, name]);

function FunctionPick() {
  const text = useSignal<string | null>(null);
  const chosen = functions.value.get(filters.function.value)?.name ?? filters.function.value;
  const wanted = text.value;
  // A name may be typed before the functions are loaded.
  useEffect(() => {
    if (wanted === null) return;
    const found = [...functions.value.values()].find((fn) => fn.name === wanted);
    if (!found && wanted !== "") return;
    filters.function.value = found?.id ?? "";
    text.value = null;
  }, [wanted, functions.value]);
  return html`
    <input class="pick" type="search" aria-label="Function" placeholder="Any function"
      list="known-functions" value=${text.value ?? chosen} autocomplete="off" spellcheck=${false}
      onInput=${(event: Event) => {
        text.value = (event.target as HTMLInputElement).value;
      }} /><datalist id="known-functions">${[...functions.value.values()].map((
        fn,
      ) => html`<option value=${fn.name} key=${fn.id} />`)}</datalist>
  `;
}

function Filters() {
  const many = NAMES.filter((name) => filters[name].value !== "").length;
  const isOpen = useSignal(false);
  // On a phone the filters would take half of the screen.
  return html`
    <button class="button narrow filters-button" type="button" aria-expanded=${isOpen.value}
      aria-controls="filters" onClick=${() => {
        isOpen.value = !isOpen.value;
      }}>Filters${many > 0 && ` (${many})`}</button><div id="filters"
      class=${`bar filters ${isOpen.value ? "open" : ""}`} role="group"
      aria-label="Filters"><${FunctionPick} />
        <${Pick} label="Status" of="status" options=${[["", "Any status"], ...same(STATUSES)]} />
        <${Pick} label="Start" of="start" options=${[
          ["", "Cold or warm"],
          ["cold", "cold starts"],
          [
            "warm",
            "warm calls",
          ],
        ]} />
        <${Pick} label="Source" of="source" options=${[["", "Any source"], ...same(SOURCES)]} />
        <${Pick} label="Time" of="since" options=${[["", "Any time"], ["1h", "the last hour"], [
          "24h",
          "the last 24 hours",
        ], ["7d", "the last 7 days"]]} />
        <label class="pick slow"><span>took at least</span><input type="number" min="0" max="999999999"
          value=${filters.slow.value} onInput=${(event: Event) => {
            filters.slow.value = (event.target as HTMLInputElement).value;
          }} /> ms</label>
        ${many > 0 &&
          html`<button class="button quiet" type="button" onClick=${clear}>Clear</button>`}</div>
  `;
}

function clear() {
  for (const name of NAMES) filters[name].value = "";
}

export default function Invocations() {
  // Set at once instead of in an effect, which could overwrite an early choice of the user.
  useMemo(() => {
    const query = route.peek().query;
    for (const name of NAMES) filters[name].value = query.get(name) ?? "";
  }, []);
  const wanted = values();
  const key = JSON.stringify(wanted);
  const shown = useEndless(key, {
    open: () => {
      note(wanted);
      return new Endless<InvocationSummary, InvocationSummaryPage>(
        "api/invocations",
        queryOf(wanted, Date.now() / 1000),
        (invocation) => invocation.invocation_id,
        (page) => ({ items: page.invocations, next: page.next_cursor }),
      );
    },
    isNews: (event) => CALLS.test(event.type),
    everyMs: LOOKED_AT_EVERY_MS,
  });
  const items = shown?.items.value ?? [];
  const isWhole = shown?.isWhole.value ?? false;
  const held = shown?.held.value.length ?? 0;
  const isFiltered = NAMES.some((name) => wanted[name] !== "");
  return html`
    <div
      class="bar"><h1>Invocations</h1><span class="muted num" role="status">${shown &&
        `${count(items.length)}${isWhole ? "" : " so far"}`}</span>${held > 0 &&
        html`<button class="button push" type="button" onClick=${() => {
          shown?.show();
          scrollTo(0, 0);
        }}>${counted(held, "newer call")}</button>`}</div>
        <${Filters} />
        ${shown?.problem.value &&
          html`<${Notice} of=${shown.problem.value} onRetry=${() => shown.more()} />`}
        ${items.length > 0
          ? html`
            <${List} label="Invocations" columns=${COLUMNS} items=${items}
              isOpen=${!isWhole}
              onEnd=${() => shown?.more()} keyOf=${(invocation: InvocationSummary) =>
                invocation.invocation_id}
              cells=${(invocation: InvocationSummary, tabindex: number) =>
                html`<${Row} invocation=${invocation} tabindex=${tabindex} />`} />
          `
          : shown?.isBusy.value
          ? html`<${Waiting} />`
          : shown && !shown.problem.value &&
            html`<p class="empty">${
              isFiltered
                ? isWhole ? "No matching invocations." : html`No match among the newest invocations.
            <button class="button" type="button" onClick=${() =>
                  shown.more()}>Look further back</button>`
                : html`No calls yet. <code>quiltfn invoke FUNCTION</code>`
            }</p>`}
  `;
}
