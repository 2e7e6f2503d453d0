// API keys of the tenant or, for operators, of all tenants: their scopes and expiry; created and
// revoked here.
import { signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, credential, get, pages, type Refused } from "../api.ts";
import { html } from "../html.ts";
import { visible } from "../parts/text/ansi.ts";
import { Choice } from "../parts/controls/choice.ts";
import { confirm } from "../parts/controls/confirm.ts";
import { Copy } from "../parts/controls/copy.ts";
import { Dialog } from "../parts/controls/dialog.ts";
import { useFetched, Waiting } from "../parts/lists/fetched.ts";
import { Select, Text } from "../parts/controls/form.ts";
import { count } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Form } from "../parts/controls/failing.ts";
import { Problem } from "../parts/lists/problem.ts";
import { fits, Search } from "../parts/controls/search.ts";
import { Status } from "../parts/invocation/status.ts";
import { Ago, Ahead } from "../parts/text/time.ts";
import { toast, toastError } from "../parts/controls/toast.ts";
import { href, note, route } from "../router.ts";
import type { Scope } from "../scope.ts";
import { load, now, signOut } from "../store.ts";
import {
  type CreatedKey,
  type Key,
  type KeyList,
  type NewKey,
  SCOPES,
  type Whoami,
} from "../wire.ts";

const MAY: Record<Scope, string> = {
  read: "view functions and calls",
  invoke: "call functions",
  write: "create and change functions",
  admin: "manage keys, view the audit log",
  operator: "manage all tenants and the machine",
};
const DAY_S = 86_400;
const EXPIRIES: readonly [seconds: string, said: string][] = [
  [`${DAY_S}`, "in a day"],
  [`${7 * DAY_S}`, "in a week"],
  [`${30 * DAY_S}`, "in 30 days"],
  [`${90 * DAY_S}`, "in 90 days"],
  [`${365 * DAY_S}`, "in a year"],
  ["", "never"],
];
const STATES = ["valid", "expired", "revoked"] as const;
type State = typeof STATES[number];
const COLUMNS: Column[] = [
  { name: "Key", width: "minmax(14rem, 1fr)" },
  { name: "Scope", width: "6rem" },
  { name: "Tenant", width: "8rem", class: "wide" },
  { name: "Made", width: "6.5rem", class: "right roomy" },
  { name: "Ends", width: "6.5rem", class: "right wide" },
  { name: "State", width: "8.5rem", class: "right" },
];

const text = signal("");
const only = signal("");

export function stateOf(apiKey: Key, now: number): State {
  if (apiKey.revoked_at !== null) return "revoked";
  return apiKey.expires_at !== null && apiKey.expires_at <= now ? "expired" : "valid";
}

/** Scopes that a caller of this scope can grant. */
export function scopesBelow(scope: string | null | undefined): readonly [string, string][] {
  const given = SCOPES.slice(0, SCOPES.findIndex((name) => name === scope) + 1);
  return given.map((name) => [name, MAY[name]]);
}

interface Known {
  keys: Key[];
  me: Whoami;
}

async function ask(signal: AbortSignal): Promise<Known> {
  const keys: Key[] = [];
  for await (const page of pages<KeyList>("api/keys", {}, signal)) keys.push(...page.keys);
  return { keys: keys.reverse(), me: await get<Whoami>("api/whoami", {}, signal) };
}

/** The form of a new key. The first key of a server must be an operator's, since otherwise nobody
 * could administer the server.
 */
function Making({ me, onMade, onClose }: {
  me: Whoami;
  onMade: (made: CreatedKey) => void;
  onClose: () => void;
}) {
  const isFirst = !me.needs_credential;
  const label = useSignal("");
  const scope = useSignal(isFirst ? "operator" : "write");
  const expires = useSignal(isFirst ? "" : `${30 * DAY_S}`);
  const tenant = useSignal(me.tenant_id);
  const problem = useSignal<Refused | null>(null);
  const isBusy = useSignal(false);
  const scopes = scopesBelow(me.scope).map(([name, may]) => [name, `${name}: ${may}`] as const);
  async function make(event: Event) {
    event.preventDefault();
    isBusy.value = true;
    problem.value = null;
    const body: NewKey = {
      scope: scope.value as NonNullable<NewKey["scope"]>,
      expires_seconds: expires.value ? Number(expires.value) : null,
      label: label.value.trim() || null,
      ...(tenant.value !== me.tenant_id && { tenant: tenant.value }),
    };
    try {
      onMade(await call<CreatedKey>("POST", "api/keys", { body }));
    } catch (error) {
      problem.value = error as Refused;
    }
    isBusy.value = false;
  }
  return html`
    <form class="card form making" aria-label="New key" onSubmit=${make}>
      <header>
        <h2>New key</h2>
      </header>
      <${Form} of=${problem.value}>
      <div class="inside columns">
        <${Text} label="Label" name="label" value=${label} maxlength=${100} placeholder="nightly build"
          about="what it is for" />
        <${Select} label="Scope" name="scope" value=${scope}
          options=${isFirst ? scopes.slice(-1) : scopes} about="each includes those before it" />
        <${Select} label="Ends" name="expires_seconds" value=${expires} options=${EXPIRIES} />
        ${me.scope === "operator" && !isFirst &&
          html`<${Text} label="Tenant" name="tenant" value=${tenant} isRequired maxlength=${64} />`}
      </div>
      ${isFirst && html`<p class="inside muted">Nobody needs a key here so far. From this one on
        every request does; this tab goes on with it.</p>`}
      </${Form}>
      <footer class="actions"><button class="button primary" type="submit"
        disabled=${isBusy.value}>Make key</button><button class="button" type="button"
        onClick=${onClose}>Cancel</button></footer>
    </form>
  `;
}

function Made({ created, onClose }: { created: CreatedKey; onClose: () => void }) {
  return html`
    <${Dialog} title="The new key" onClose=${onClose} close="I have it">
      <p>You won't see this key again. Copy it now.</p>
      <p class="secret">
        <${Copy} text=${created.key} label="key" />
      </p>
      <p class="muted small">${[
        created.label && visible(created.label),
        created.scope,
        `tenant ${created.tenant_id}`,
      ].filter(Boolean).join(", ")}</p>
      </${Dialog}>
  `;
}

async function revoke(apiKey: Key, isMine: boolean, again: () => Promise<void>): Promise<void> {
  const name = apiKey.label ? visible(apiKey.label) : apiKey.prefix;
  const isSure = await confirm({
    title: `Revoke ${name}?`,
    text: isMine
      ? "This tab uses it: you are signed out. This cannot be undone."
      : "Requests with it are refused within a second. This cannot be undone.",
    verb: "Revoke",
  });
  if (!isSure) return;
  try {
    await call("DELETE", `api/keys/${encodeURIComponent(apiKey.id)}`);
    toast(`${name} is revoked.`);
    if (isMine) signOut();
    else await again();
  } catch (error) {
    toastError(error);
  }
}

function Row({ apiKey, tabindex, me, again }: {
  apiKey: Key;
  tabindex: number;
  me: Whoami;
  again: () => Promise<void>;
}) {
  const state = stateOf(apiKey, now.value);
  const isMine = apiKey.id === me.credential;
  const glyph = state === "valid" ? "active" : state === "revoked" ? "cancelled" : "timeout";
  const ends = state === "valid"
    ? html`<${Ahead} at=${apiKey.expires_at} />`
    : html`<${Ago} at=${apiKey.revoked_at ?? apiKey.expires_at} />`;
  return html`
    <span role="cell" class="name"><${Status} of=${glyph} isQuiet />
      <div><a href=${href(["audit"], { who: apiKey.id })} tabindex=${tabindex}
        title="What it has done">${apiKey.label ? visible(apiKey.label) : apiKey.prefix}</a
        ><small><span class="mono">${apiKey.label ? apiKey.prefix : ""}</span>${isMine &&
          " the key of this tab"}</small></div></span>
    <span role="cell">${apiKey.scope}<span class="narrow muted small">${me.scope === "operator" &&
      `, tenant ${apiKey.tenant_id}`}, ${ends}</span></span>
    <span role="cell" class="small muted wide clip">${apiKey.tenant_id}</span>
    <span role="cell" class="num small right roomy"><${Ago} at=${apiKey.created_at} /></span>
    <span role="cell" class="num small right wide">${ends}</span>
    <span role="cell" class="right">${state === "valid"
      ? html`
        <button class="button above" type="button" aria-label=${`Revoke ${
          apiKey.label ? visible(apiKey.label) : apiKey.prefix
        }`}
          onClick=${() => revoke(apiKey, isMine, again)}>Revoke</button>
      `
      : html`<span class="muted small">${state}</span>`}</span>
  `;
}

export default function Keys() {
  const { value, problem, again } = useFetched(ask, []);
  const isMaking = useSignal(false);
  const made = useSignal<CreatedKey | null>(null);
  useEffect(() => {
    const query = route.peek().query;
    text.value = query.get("q") ?? "";
    only.value = query.get("state") ?? "";
  }, []);
  useEffect(() => note({ q: text.value, state: only.value }), [text.value, only.value]);
  async function taken(created: CreatedKey) {
    made.value = created;
    isMaking.value = false;
    if (value.value && !value.value.me.needs_credential) {
      credential.set(created.key);
      await load();
    }
    await again();
  }
  const known = value.value;
  const all = known?.keys ?? [];
  const shown = all.filter((apiKey) =>
    (!only.value || stateOf(apiKey, now.value) === only.value) &&
    fits(text.value, apiKey.label, apiKey.prefix, apiKey.id, apiKey.scope, apiKey.tenant_id)
  );
  return html`
    <div
      class="bar"><h1>Keys</h1><span class="muted num" role="status">${known &&
        (shown.length === all.length
          ? count(all.length)
          : `${count(shown.length)} of ${count(all.length)}`)}</span>${known && !isMaking.value &&
        html`<button class="button primary push" type="button" onClick=${() => {
          isMaking.value = true;
        }}>New key</button>`}</div>
    ${problem.value && html`<${Problem} of=${problem.value} onRetry=${again} />`}
    ${isMaking.value && known && html`<${Making} me=${known.me} onMade=${taken} onClose=${() => {
      isMaking.value = false;
    }} />`}
    ${all.length > 0 && html`
      <div class="bar">
        <${Search} text=${text}
          label="Search by label, prefix or scope" />
        <${Choice} label="State" options=${STATES}
          chosen=${only} />
      </div>
    `}
    ${known && shown.length > 0
      ? html`
        <${List} label="Keys" columns=${COLUMNS} items=${shown}
          keyOf=${(apiKey: Key) => apiKey.id} cells=${(apiKey: Key, tabindex: number) =>
            html`<${Row} apiKey=${apiKey} tabindex=${tabindex} me=${known.me} again=${again} />`} />
      `
      : known && all.length > 0
      ? html`<p class="empty">No matching keys</p>`
      : known
      ? html`
        <div class="card empty teach">
          <h2>No keys yet</h2>
          ${known.me.needs_credential
            ? null
            : html`<p>Until there is one, everybody who reaches this server may do everything.</p>`}
        </div>
      `
      : !problem.value && html`<${Waiting} />`}
    ${made.value && html`<${Made} created=${made.value} onClose=${() => {
      made.value = null;
    }} />`}
  `;
}
