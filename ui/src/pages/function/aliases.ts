// The aliases of a function: names for versions; each can split invocations between two.
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useId, useRef } from "preact/hooks";
import {
  type AliasDraft,
  bodyOf,
  draftOf,
  newDraft,
  percentOf,
  ruleSaid,
  sameAgain,
  shares,
  sharesSaid,
} from "../../aliases.ts";
import { call } from "../../api.ts";
import { described } from "../../fields.ts";
import { useEvents } from "../../hearing.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/text/ansi.ts";
import { confirm } from "../../parts/controls/confirm.ts";
import { Copy } from "../../parts/controls/copy.ts";
import { Described } from "../../parts/controls/described.ts";
import { Form, useFailure } from "../../parts/controls/failing.ts";
import { Field } from "../../parts/controls/form.ts";
import { Rail } from "../../parts/charts/rail.ts";
import { Ago } from "../../parts/text/time.ts";
import { toast, toastError } from "../../parts/controls/toast.ts";
import { may } from "../../scope.ts";
import type { Alias, Function, NewAlias } from "../../wire.ts";

interface Changing {
  fn: Function;
  again: () => Promise<void>;
}

const pathOf = (fn: Function, name: string): string =>
  `api/functions/${fn.id}/aliases/${encodeURIComponent(name)}`;

/** Sets an alias, or removes it if `body` is null. `before`: its previous state, for undo. */
async function set(
  { fn, again }: Changing,
  name: string,
  body: NewAlias | null,
  before: Alias | null,
): Promise<void> {
  const path = pathOf(fn, name);
  const now = body === null
    ? await call<null>("DELETE", path)
    : await call<Alias>("PUT", path, { body });
  await again();
  const action = body === null ? "was removed" : before === null ? "is set" : "was changed";
  toast(`Alias ${name} ${action}.`, {
    undo: () => set({ fn, again }, name, before && sameAgain(before), now),
  });
}

function Share({ of }: { of: Alias }) {
  const both = shares(of);
  const said = sharesSaid(of);
  const parts = both.map(({ percent, version }, n) => ({
    kind: n === 0 ? "used" as const : "warming" as const,
    size: percent,
    title: `version ${version}: ${percent} %`,
  }));
  return html`<span class="num">${said}</span>${
    both.length > 1 && html`
      <${Rail} parts=${parts} whole=${100} said=${said} />
    `
  }`;
}

function Row({ of, fn, again, onChange }: Changing & { of: Alias; onChange: () => void }) {
  const other = of.also?.version;
  async function act(body: NewAlias | null) {
    await set({ fn, again }, of.name, body, of).catch(toastError);
  }
  async function remove() {
    const title = `Remove the alias ${of.name}?`;
    const text = "Calls by it are refused from then on; calls that run go on." +
      (of.default
        ? ` Calls that name no version run on the current one, v${fn.current_version}, then.`
        : "");
    if (await confirm({ title, text, verb: "Remove" })) await act(null);
  }
  return html`
    <tr>
      <td><b>${of.name}</b>${of.default && html`
        <span class="badge" title="Calls that name no version and no alias run by it.">default</span>
      `}
        <p class="narrow small muted"><${Ago} at=${of.updated_at} /></p>
      </td>
      <td><${Share} of=${of} />${of.rollback_on && of.also &&
        html`<div class="small muted">v${other} is ${ruleSaid(of.rollback_on)}</div>`}${of
        .rolled_back && html`
        <div class="small"><span class="badge bad first">rolled back</span> ${visible(
          of.rolled_back,
        )}</div>
      `}</td>
      <td class="small wide">
        <${Ago} at=${of.updated_at} />
      </td>
      <td class="right">
        <div class="actions">${may("write") && html`
          ${other !== undefined && html`
            <button class="button" type="button" onClick=${() => act({ version: other })}
              aria-label=${`All to v${other}: every call by ${of.name}`}>All to v${other}
            </button>
          `}<button class="button" type="button" onClick=${onChange}
            aria-label=${`Change ${of.name}`}>Change</button><button class="button" type="button"
            onClick=${remove} aria-label=${`Remove ${of.name}`}>Remove</button>
        `}</div>
      </td>
    </tr>
  `;
}

/** A fraction, entered in percent; null if the field is empty. `path`: the API's field. */
function Percent({ path, label, about, value, onValue }: {
  path: string;
  label: string;
  about: string;
  value: number | null;
  onValue: (value: number | null) => void;
}) {
  const id = useId();
  const text = useSignal(value === null ? "" : String(percentOf(value)));
  const said = useFailure(path, label, id);
  return html`
    <${Field} label=${label} about=${about} id=${id} said=${said}>
      <input class="text" id=${id} type="number" min="0.1" max="99.9" step="any" value=${text}
        aria-describedby=${`${id}-about`} aria-invalid=${said ? true : null} autocomplete="off"
        onInput=${(event: Event) => {
          text.value = (event.target as HTMLInputElement).value;
          onValue(text.value === "" ? null : Number(text.value) / 100);
        }} />
      </${Field}>
  `;
}

function Fields({ draft, isNew, versions }: {
  draft: Signal<AliasDraft | null>;
  isNew: boolean;
  versions: readonly number[];
}) {
  const of = draft.value;
  if (of === null) return null;
  const change = (part: Partial<AliasDraft>) => {
    draft.value = { ...of, ...part };
  };
  const rule = (name: "p99_ms" | "within_s", label: string) =>
    html`
      <${Described} shape="RollbackRule" within="rollback_on" name=${name} label=${label}
        value=${of.rule[name]} onValue=${(value: number) =>
          change({ rule: { ...of.rule, [name]: value } })} />
    `;
  const numbers = [...new Set([...versions, of.version, of.other || of.version])].map(String);
  const words = {
    "0": "no other version",
    ...Object.fromEntries(numbers.map((number) => [number, `v${number}`])),
  };
  // The focus is set again once descriptions are loaded: the fields are disabled until then.
  const isKnown = described.value !== null;
  const fields = useRef<HTMLDivElement>(null);
  useEffect(() => fields.current?.querySelector<HTMLElement>("input, select")?.focus(), [isKnown]);
  return html`
    <div ref=${fields}>
      <div class="settings">
        ${isNew && html`
          <${Described} shape="Alias" name="name" label="Name" value=${of.name} isMono
            onValue=${(name: string) => change({ name })} />
        `}
        <${Described} shape="NewAlias" name="version" label="Version" value=${String(of.version)}
          options=${numbers} words=${words} onValue=${(version: number) => change({ version })} />
        <${Described} shape="AliasShare" within="also" name="version" label="Send a part to"
          value=${String(of.other)} words=${words}
          options=${["0", ...numbers.filter((number) => number !== String(of.version))]}
          onValue=${(other: number) => change({ other })} />
        ${of.other !== 0 && html`
          <${Percent} path="also.weight" label="Its part of the calls, %" value=${of.weight}
            about="chosen at random for each call; from 0.1 to 99.9"
            onValue=${(weight: number | null) => change({ weight: weight ?? 0 })} />
        `}
      </div>
      ${of.other !== 0 && html`
        <p class="small muted">Version ${of
          .other} is taken back by itself once more of its own calls
          fail, at least three, or more are slow than is allowed here. After the time the split stays
          as it is.</p>
        <div class="settings">
          <${Percent} path="rollback_on.error_rate" label="May fail, %" value=${of.rule.error_rate}
            about="of its calls; from 0.1 to 99.9; empty: failures are not looked at"
            onValue=${(rate: number | null) =>
              change({ rule: { ...of.rule, error_rate: rate } })} />
          ${rule("p99_ms", "p99 at most, ms")}${rule("within_s", "Watched for, s")}
        </div>
      `}
    </div>
  `;
}

const TEACH =
  "An alias is a name that calls use instead of a version, such as live. It can send a " +
  "part of its calls to another version, and take that one back by itself where it fails.";

/** `versions`: the versions that an alias can name, newest first. */
export function Aliases({ fn, all, versions, again }: Changing & {
  all: readonly Alias[];
  versions: readonly number[];
}) {
  const draft = useSignal<AliasDraft | null>(null);
  const before = useSignal<Alias | null>(null); // the alias that is being edited
  const failed = useSignal<Error | null>(null);
  useEvents(fn.id, /^alias\./, 0, again);
  function open(of: Alias | null) {
    before.value = of;
    draft.value = of === null ? newDraft(fn.current_version) : draftOf(of);
    failed.value = null;
  }
  async function save(event: Event) {
    event.preventDefault();
    const body = draft.peek();
    if (!body) return;
    failed.value = null;
    try {
      await set({ fn, again }, body.name, bodyOf(body), before.peek());
      draft.value = null;
    } catch (error) {
      failed.value = error as Error;
    }
  }
  const isNew = before.value === null;
  return html`
    <form class="card after" aria-labelledby="aliases" onSubmit=${save}>
      <header><h2 id="aliases">Aliases</h2>${may("write") && html`
        <button class="button push" type="button" onClick=${() => open(null)}>New alias</button>
      `}</header>
      ${all.length === 0 && !draft.value && html`
        <div class="empty teach">
          <p>${TEACH} In a terminal:</p>
          <${Copy} text=${`quiltfn aliases set ${fn.name} live ${fn.current_version}`} />
        </div>
      `}
      ${all.length > 0 && html`
        <div class="scrolls">
          <table class="table">
            <thead>
              <tr>
                <th>Name</th>
                <th>Calls run on</th>
                <th class="wide">Set</th>
                <th><span class="hidden-visually">What can be done</span></th>
              </tr>
            </thead>
            <tbody>${all.map((each) =>
              html`
                <${Row} of=${each} fn=${fn} again=${again} key=${each.name}
                  onChange=${() => open(each)} />
              `
            )}</tbody>
          </table>
        </div>
      `}
      ${draft.value && html`
        <div class="inside">
          <h3>${isNew ? "New alias" : `Change ${draft.value.name}`}</h3>
          <${Form} of=${failed.value}>
            <${Fields} draft=${draft} isNew=${isNew} versions=${versions}
              key=${before.value?.name ?? ""} />
            </${Form}>
            <div
              class="actions"><button class="button" type="button" onClick=${() => {
                draft.value = null;
              }}>Cancel</button><button class="button primary" type="submit">Save</button></div>
            </div>
      `}
    </form>
  `;
}
