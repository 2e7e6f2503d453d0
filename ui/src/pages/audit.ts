// Who changed what, and which requests were refused: newest first, back to the oldest stored entry.
import { signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { get, pages } from "../api.ts";
import { type Filter, FILTERS, madeAt, placeOf, queryOf, TIMES, type Wanted } from "../audit.ts";
import { html } from "../html.ts";
import { visible } from "../parts/text/ansi.ts";
import { Dialog } from "../parts/controls/dialog.ts";
import { Endless, useEndless } from "../parts/lists/endless.ts";
import { Waiting } from "../parts/lists/fetched.ts";
import { count, counted, exact } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Problem } from "../parts/lists/problem.ts";
import { Status } from "../parts/invocation/status.ts";
import { Ago } from "../parts/text/time.ts";
import { go, href, note, route } from "../router.ts";
import { callerOf } from "../scope.ts";
import { functions, who } from "../store.ts";
import type { AuditEntry, AuditPage, Key, KeyList } from "../wire.ts";

const COLUMNS: Column[] = [
  { name: "Action", width: "minmax(12rem, 1fr)" },
  { name: "Object", width: "minmax(6rem, 1fr)" },
  { name: "Tenant", width: "minmax(4rem, 6rem)", class: "wide" },
  { name: "Actor", width: "minmax(5rem, 9rem)", class: "wide" },
  { name: "Answer", width: "4.5rem", class: "right wide" },
  { name: "Source address", width: "8.5rem", class: "roomy" },
  { name: "When", width: "6rem", class: "right" },
];
const LOOKED_AT_EVERY_MS = 1_000;

const filters = Object.fromEntries(FILTERS.map((name) => [name, signal("")])) as Record<
  Filter,
  ReturnType<typeof signal<string>>
>;
/** Keys by their ids, for their labels. */
const keys = signal<ReadonlyMap<string, Key>>(new Map());

const values = (): Wanted =>
  Object.fromEntries(FILTERS.map((name) => [name, filters[name].value])) as Wanted;

function whoOf(id: string): string {
  const key = keys.value.get(id);
  return key ? key.label ? visible(key.label) : key.prefix : visible(callerOf(id));
}

function Subject({ of }: { of: AuditEntry }) {
  const { object_id: id } = of;
  if (id === null) return html`<span class="muted">–</span>`;
  const place = isOwn(of) ? placeOf(of.action, id, functions.value, of.object_name) : null;
  const key = keys.value.get(id);
  const known = of.object_name ?? functions.value.get(id)?.name ?? key?.label ?? key?.prefix;
  const name = visible(known ?? id);
  return place
    ? html`<a class="above" href=${place} title=${id}>${name}</a>`
    : html`<span title=${id}>${name}</span>`;
}

const isOwn = (of: AuditEntry): boolean => of.tenant_id === who.value?.tenant_id;

function Row({ entry, tabindex }: { entry: AuditEntry; tabindex: number }) {
  const isGood = entry.status < 400;
  return html`
    <span role="cell" class="name"><${Status} of=${isGood ? "success" : "failed"} isQuiet />
      <div><a href=${href(["audit"], {
        ...values(),
        entry: entry.id,
      })} tabindex=${tabindex}>${visible(entry.action)}</a>${entry.error_code &&
        html`<small>${visible(entry.error_code)}</small>`}</div></span>
    <span role="cell" class="small clip"><${Subject} of=${entry} /></span>
    <span role="cell" class="small muted clip wide">${visible(entry.tenant_id)}</span>
    <span role="cell" class="small clip wide" title=${entry.credential}>${whoOf(
      entry.credential,
    )}</span>
    <span role="cell" class=${`num small right wide ${isGood ? "muted" : "some"}`}>${entry
      .status}</span>
    <span role="cell" class="num small muted roomy clip">${visible(entry.address)}</span>
    <span role="cell" class="num small right"><${Ago} at=${entry.at} /></span>
  `;
}

function Entry({ of }: { of: AuditEntry }) {
  const only = (filter: Partial<Wanted>) => href(["audit"], filter);
  return html`
    <${Dialog} title=${visible(of.action)} onClose=${() => go(href(["audit"], { ...values() }))}>
      <dl class="pairs">
        <dt>Answer</dt>
        <dd class="num">${of.status}${of.error_code && ` ${visible(of.error_code)}`}</dd>
        <dt>When</dt>
        <dd><time dateTime=${new Date(of.at * 1000).toISOString()}>${exact(
          of.at,
        )}</time>, <${Ago} at=${of.at} /></dd>
        <dt>Object</dt>
        <dd><${Subject} of=${of} />${of.object_id !== null &&
          html`
            <small class="mono">${visible(of.object_id)}</small><a class="small"
              href=${only({ object: of.object_id })}>All that was done to it</a>
          `}</dd>
        <dt>Actor</dt>
        <dd>${whoOf(of.credential)}<small class="mono">${visible(of.credential)}</small
          ><a class="small" href=${only({ who: of.credential })}>All that it did</a></dd>
        <dt>Tenant</dt>
        <dd>${visible(of.tenant_id)}</dd>
        <dt>Address</dt>
        <dd class="mono">${visible(of.address)}</dd>
        <dt>Request</dt>
        <dd class="mono">${visible(of.request_id)}</dd>
        <dt>Entry</dt>
        <dd class="mono">${of.id}</dd>
      </dl>
      </${Dialog}>
  `;
}

/** The entry that the address names: one from the list, or one fetched by the time in its id. */
function Chosen({ id, items }: { id: string; items: readonly AuditEntry[] }) {
  const fetched = useSignal<AuditEntry | null>(null);
  const found = items.find((entry) => entry.id === id) ?? fetched.value;
  const isMissing = !found;
  useEffect(() => {
    const at = madeAt(id);
    if (!isMissing || at === null) return;
    get<AuditPage>("api/audit", { from: at, to: at + 2, limit: 1000 }).then((page) => {
      fetched.value = page.entries.find((entry) => entry.id === id) ?? null;
    }, () => {});
  }, [id, isMissing]);
  return found && found.id === id ? html`<${Entry} of=${found} />` : null;
}

/** A text field whose value applies once the user has finished typing. */
function Typed({ label, of, suggestions }: {
  label: string;
  of: Filter;
  suggestions: readonly string[];
}) {
  const draft = useSignal<string | null>(null); // keeps typed text when the list is updated
  return html`
    <input class="pick" type="search" aria-label=${label} placeholder=${label}
      value=${draft.value ??
        filters[of].value} list=${`known-${of}`} autocomplete="off" spellcheck=${false}
      onInput=${(event: Event) => {
        draft.value = (event.target as HTMLInputElement).value;
      }} onChange=${(event: Event) => {
        filters[of].value = (event.target as HTMLInputElement).value.trim();
        draft.value = null;
      }} /><datalist id=${`known-${of}`}>${suggestions.map((suggestion) =>
        html`<option value=${suggestion} key=${suggestion} />`
      )}</datalist>
  `;
}

function Pick({ label, of, options }: {
  label: string;
  of: Filter;
  options: readonly [value: string, said: string][];
}) {
  return html`
    <select class="pick" aria-label=${label} value=${filters[of].value}
      onChange=${(event: Event) => {
        filters[of].value = (event.target as HTMLSelectElement).value;
      }}>${options.map(([option, said]) =>
        html`<option value=${option} key=${option}>${said}</option>`
      )}</select>
  `;
}

function Filters({ actions }: { actions: readonly string[] }) {
  const who = filters.who.value;
  const known = [...keys.value.values()].map((key): [string, string] => [
    key.id,
    key.label ? `${visible(key.label)} (${key.prefix})` : key.prefix,
  ]);
  if (who && !keys.value.has(who)) known.unshift([who, visible(callerOf(who))]);
  const times = Object.entries(TIMES).map(([value, [said]]): [string, string] => [value, said]);
  const isAny = FILTERS.some((name) => filters[name].value !== "");
  return html`<div class="bar" role="group" aria-label="Filters">
    <${Typed} label="Any action" of="action" suggestions=${actions} />
    <${Pick} label="Actor" of="who" options=${[["", "Anybody"], ...known]} />
    <${Typed} label="Any object's id" of="object" suggestions=${[]} />
    <${Pick} label="Time" of="since" options=${[["", "Any time"], ...times]} />
    ${
    isAny && html`<button class="button quiet" type="button" onClick=${() => {
      for (const name of FILTERS) filters[name].value = "";
    }}>Clear</button>`
  }</div>`;
}

async function learnKeys(): Promise<void> {
  try {
    for await (const page of pages<KeyList>("api/keys")) {
      keys.value = new Map([...keys.value, ...page.keys.map((key) => [key.id, key] as const)]);
    }
  } catch { /* ids are shown instead of labels */ }
}

/** The actions seen so far, and their groups. */
function actionsIn(items: readonly AuditEntry[]): string[] {
  const all = items.flatMap((entry) => [entry.action, entry.action.split(".")[0] ?? ""]);
  return [...new Set(all)].sort();
}

export default function Audit() {
  const here = route.value;
  const taken = useRef<unknown>(null);
  if (taken.current !== here) { // a link was followed: the address has the new filter
    taken.current = here;
    for (const name of FILTERS) filters[name].value = here.query.get(name) ?? "";
  }
  const wanted = values();
  const key = JSON.stringify(wanted);
  const shown = useEndless(key, {
    open: () => {
      note({ ...wanted, entry: route.peek().query.get("entry") });
      return new Endless<AuditEntry, AuditPage>(
        "api/audit",
        queryOf(wanted, Date.now() / 1000),
        (entry) => entry.id,
        (page) => ({ items: page.entries, next: page.next_cursor }),
      );
    },
    isNews: (event) => event.type.startsWith("function."),
    everyMs: LOOKED_AT_EVERY_MS,
    mayLook: (list) => list.problem.peek() === null,
  });
  const items = shown?.items.value ?? [];
  const isWhole = shown?.isWhole.value ?? false;
  const held = shown?.held.value.length ?? 0;
  const problem = shown?.problem.value;
  const isBarred = problem?.status === 403;
  useEffect(() => {
    if (isWhole || items.length > 0) learnKeys();
  }, [isWhole || items.length > 0]);
  const entry = here.query.get("entry");
  return html`
    <div
      class="bar"><h1>Audit</h1><span class="muted num" role="status">${shown && !problem &&
        `${count(items.length)}${isWhole ? "" : " so far"}`}</span>${held > 0 &&
        html`<button class="button push" type="button" onClick=${() => {
          shown?.show();
          scrollTo(0, 0);
        }}>${counted(held, "newer entry", "newer entries")}</button>`}</div>
    ${!isBarred && html`<${Filters} actions=${actionsIn(items)} />`}
    ${problem && html`<${Problem} of=${problem} onRetry=${() => shown?.more()} />`}
    ${items.length > 0
      ? html`
        <${List} label="Audit log" columns=${COLUMNS} items=${items}
          isOpen=${!isWhole} onEnd=${() => shown?.more()} keyOf=${(entry: AuditEntry) => entry.id}
          cells=${(entry: AuditEntry, tabindex: number) =>
            html`<${Row} entry=${entry} tabindex=${tabindex} />`} />
      `
      : shown?.isBusy.value
      ? html`<${Waiting} />`
      : shown && !problem &&
        html`<p class="empty">${
          isWhole ? "No matching entries." : html`No match among the newest entries.
          <button class="button" type="button" onClick=${() =>
            shown.more()}>Look further back</button>`
        }</p>`}
    ${entry && html`<${Chosen} id=${entry} items=${items} key=${entry} />`}
  `;
}
