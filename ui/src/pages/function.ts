// One function: its state, and sections for everything that can be done with it.
import { type Signal, useSignal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { poolOf } from "../activity.ts";
import { elsewhereSaid, madeCurrentSaid } from "../aliases.ts";
import { call, get, type Refused } from "../api.ts";
import { comingVersion, FunctionFailed, functionOf, show, tell } from "../current.ts";
import { forget, isUnsaved } from "../editing.ts";
import { useEvents } from "../hearing.ts";
import { html } from "../html.ts";
import type { PageProps } from "../page_props.ts";
import { visible } from "../parts/text/ansi.ts";
import { confirm } from "../parts/controls/confirm.ts";
import { useEdges } from "../parts/controls/edges.ts";
import { useFetched, Waiting } from "../parts/lists/fetched.ts";
import { ago, bytes, counted, MIB } from "../parts/text/format.ts";
import { Notice } from "../parts/lists/notice.ts";
import { byKind, KINDS, NO_INSTANCES, PoolBar } from "../parts/charts/pool.ts";
import { useSettling } from "../parts/controls/settling.ts";
import { Ago } from "../parts/text/time.ts";
import { useTitle } from "../parts/text/title.ts";
import { toast, toastError } from "../parts/controls/toast.ts";
import { go, href } from "../router.ts";
import { may } from "../scope.ts";
import { now, put } from "../store.ts";
import type { Function, PoolList } from "../wire.ts";
import { Async } from "./function/async.ts";
import { Address, LastError, State, useHealth } from "./function/health.ts";
import { Network } from "./function/network.ts";
import { Notices } from "./function/notices.ts";
import { Overview } from "./function/overview.ts";
import { Scaling } from "./function/scaling.ts";
import { Schedules } from "./function/schedules.ts";
import { Settings } from "./function/settings.ts";
import { Versions } from "./function/versions.ts";

/** The properties of a section. */
export interface SectionProps {
  fn: Function;
}

const COUNTED_EVERY_MS = 2_000;
const TAB_BEFORE_PX = 80;
const SECTIONS: Record<string, [title: string, section: ComponentType<SectionProps>]> = {
  "": ["Overview", Overview],
  settings: ["Code and settings", Settings],
  versions: ["Versions", Versions],
  scaling: ["Scaling", Scaling],
  async: ["Async", Async],
  schedules: ["Schedules", Schedules],
  network: ["URL and network", Network],
};

/** The function as it is now. `isGone`: it was deleted, or never existed. */
function useFunction(id: string): {
  fn: Function | null;
  isGone: boolean;
  problem: Signal<Refused | null>;
} {
  const isGone = useSignal(false);
  const path = `api/functions/${encodeURIComponent(id)}`;
  const { problem, again } = useFetched(async (signal) => {
    const [fn, { pools }] = await Promise.all([
      get<Function>(path, {}, signal),
      get<PoolList>("api/functions/pools", { function_id: id }, signal),
    ]);
    show(fn);
    poolOf(id).value = pools[0] ?? NO_INSTANCES;
    return fn;
  }, [id]);
  useEvents(id, /^(function\.(?!deleted)|alias\.)/, 0, again);
  useEvents(id, /^(invocation\.ended|calls)$/, COUNTED_EVERY_MS, again);
  useEvents(id, /^function\.deleted$/, 0, () => {
    isGone.value = true;
  });
  return {
    fn: functionOf(id).value,
    isGone: isGone.value || problem.value?.status === 404,
    problem,
  };
}

/** Performs a button's action, and reports its result. */
async function act(fn: Function, verb: "deploy" | "pause" | "resume"): Promise<void> {
  const path = `api/functions/${fn.id}`;
  try {
    await call("POST", `${path}/${verb}`);
    const now = await get<Function>(path);
    show(now);
    if (now.state === "error" || verb === "deploy" && now.error_message) {
      throw new FunctionFailed(now);
    }
    if (verb === "deploy" && now.state === "active") {
      toast(madeCurrentSaid(now));
      return;
    }
    const back = { pause: "resume", resume: "pause", deploy: null }[verb] as "pause" | null;
    toast(`${now.name} is ${now.state}.`, back ? { undo: () => act(now, back) } : {});
  } catch (error) {
    tell(fn.id, error);
  }
}

async function remove(fn: Function): Promise<void> {
  const isSure = await confirm({
    title: `Delete ${fn.name}?`,
    text: `Its ${counted(fn.current_version, "version")}, records and queued work go with it. ` +
      "Running invocations are cancelled after 5 seconds.",
    verb: "Delete",
  });
  if (!isSure) return;
  try {
    await call("DELETE", `api/functions/${fn.id}`);
    put(fn.id, null);
    go("#/");
    toast(`${fn.name} was deleted.`);
  } catch (error) {
    toastError(error);
  }
}

function Actions({ fn }: { fn: Function }) {
  const doing = useSettling();
  if (!may("write")) return null;
  const isBusy = doing.isBusy.value || fn.state === "deploying";
  const version = `version ${fn.current_version}`;
  const again = {
    said: `Redeploy ${version}`,
    title: `Starts the instances of ${version}, the current one, anew. It saves nothing.`,
  };
  const button = (
    verb: "deploy" | "pause" | "resume",
    isFirst: boolean,
    { said, title }: { said?: string; title?: string } = {},
  ) =>
    html`
      <button class=${`button ${isFirst ? "primary" : ""}`} type="button" aria-disabled=${isBusy}
        title=${title} onClick=${() => isBusy || doing.run(() => act(fn, verb))}>${said ??
          verb.charAt(0).toUpperCase() + verb.slice(1)}</button>
    `;
  return html`
    <div
      class="actions">${fn.state === "paused"
        ? button("resume", true)
        : fn.state === "active"
        ? html`${button("pause", false)}${button("deploy", false, again)}`
        : button("deploy", true)}<button class="button" type="button" onClick=${() =>
        remove(fn)}>Delete</button></div>
  `;
}

/** The current version, and the one that is being deployed. */
function Serving({ fn }: { fn: Function }) {
  const next = comingVersion(fn.id).value;
  const now = html`version <b>${fn.current_version}</b>`;
  if (next === null || next === fn.current_version) {
    const said = elsewhereSaid(fn);
    return html`<span>${now}</span>${said && html`<span>calls run on <b>${said}</b></span>`}`;
  }
  return html`<span role="status">version <b>${next}</b> is being deployed${
    fn.state === "active" &&
    html`; ${elsewhereSaid(fn) ? html`<b>${elsewhereSaid(fn)}</b>` : now} answers`
  }</span>`;
}

function Facts({ fn }: { fn: Function }) {
  const last = ago(fn.last_invoked_at, now.value) === "now" ? "" : "the last ";
  return html`
    <p
      class="facts"><span>runtime <a href=${href(["runtimes", fn.runtime])}>${fn
        .runtime}</a></span><${Serving} fn=${fn} /><span><b>${fn
        .memory_limit_mb}</b> MiB</span><span>timeout <b>${fn.timeout_seconds}</b> s</span
      ><span>${fn.last_invoked_at === null
        ? "never called"
        : html`${
          counted(fn.invocation_count, "call")
        }, ${last}<${Ago} at=${fn.last_invoked_at} />`}</span></p>
  `;
}

function PoolStrip({ fn }: { fn: Function }) {
  const counts = poolOf(fn.id).value;
  return html`
    <section class="card strip" aria-label="Pool"><h2>Pool</h2>
      <${PoolBar} counts=${counts} most=${fn.max_instances} isBig />
      <span class="legend num">${Object.entries(byKind(counts)).map(([kind, many]) =>
        html`<span class=${`key ${kind} ${many ? "" : "none"}`} key=${kind} title=${
          KINDS[kind as keyof typeof KINDS]
        }><b>${many}</b> ${kind}</span>`
      )}<span>min ${fn.min_instances}, max ${fn.max_instances}</span>
      <span title="Memory reserved in the budget: an instance with a running invocation counts with its limit">${bytes(
        (counts.memory_mib ?? 0) * MIB,
      )} of memory</span></span></section>
  `;
}

function Tabs({ id, at }: { id: string; at: string }) {
  const row = useRef<HTMLElement>(null);
  useEdges(row);
  // On a phone, the open section would otherwise be out of sight.
  useEffect(() => {
    const open = row.current?.querySelector<HTMLElement>("[aria-current]");
    if (row.current && open) {
      row.current.scrollLeft = open.offsetLeft - row.current.offsetLeft - TAB_BEFORE_PX;
    }
  }, [at]);
  return html`<nav class="tabs" ref=${row} aria-label="Sections of the function">${
    Object.entries(SECTIONS).map(([name, [title]]) =>
      html`<a href=${href(["functions", id, ...(name ? [name] : [])])} key=${name} aria-current=${
        name === at ? "page" : null
      }>${title}${
        name === "settings" && isUnsaved(id) &&
        html`
          <span class="muted" title="Something was changed and is not saved."
          > (not saved)</span>
        `
      }</a>`
    )
  }</nav>`;
}

export default function FunctionPage({ function_id: id = "", section = "" }: PageProps) {
  const { fn, isGone, problem } = useFunction(id);
  const health = useHealth(id);
  const found = SECTIONS[section];
  useEffect(() => {
    if (isGone) forget(id);
  }, [isGone, id]);
  useTitle(fn ? `${fn.name}${section && found ? `, ${found[0]}` : ""}` : "Function");
  if (isGone || !found) {
    return html`<p class="empty">There is no such ${found ? "function" : "page"}. <a href="#/"
      >All functions</a></p>`;
  }
  if (!fn) return problem.value ? html`<${Notice} of=${problem.value} />` : html`<${Waiting} />`;
  const Section = found[1];
  return html`
    <p class="crumbs wide"><a href="#/">Functions</a> / <span>${fn.name}</span></p>
    <div
      class="title"><h1>${fn.name}</h1><span role="status"><${State} fn=${fn}
        health=${health.value} /></span><${Actions} fn=${fn} /></div>
    ${fn.description && html`<p class="about muted">${visible(fn.description)}</p>`}
    <${Facts} fn=${fn} />
    <${LastError} of=${health.value?.lastError ?? null} />
    ${section !== "network" && html`<${Address} id=${fn.id} key=${fn.id} />`}
    <${PoolStrip} fn=${fn} />
    <${Tabs} id=${id} at=${section} />
    ${section !== "versions" && html`<${Notices} fn=${fn} section=${section} key=${id} />`}
    <${Section} fn=${fn} key=${id} />
  `;
}
