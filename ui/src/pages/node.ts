// The machine, for operators: its system checks, the use of its memory, and its protections.
import { signal, useSignal } from "@preact/signals";
import { get } from "../api.ts";
import { html } from "../html.ts";
import { useAgain, useFetched, Waiting } from "../parts/lists/fetched.ts";
import { bytes, count, counted, duration, MIB, percent } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Problem } from "../parts/lists/problem.ts";
import { Rail } from "../parts/charts/rail.ts";
import { fits, Search } from "../parts/controls/search.ts";
import { Status } from "../parts/invocation/status.ts";
import { Ago } from "../parts/text/time.ts";
import { countsOf, groupsOf, memoryParts, readable, worstFirst } from "../node.ts";
import { href } from "../router.ts";
import { who } from "../store.ts";
import { Tenants } from "./node_tenants.ts";
import type { DoctorReport, Finding, Health, Instance, InstanceList, SystemInfo } from "../wire.ts";

const INSTANCES_EVERY_MS = 2_000;
const REST_EVERY_MS = 30_000;
const COLUMNS: Column[] = [
  { name: "Function", width: "minmax(12rem, 1fr)", sort: "name" },
  { name: "State", width: "7rem", sort: "state" },
  { name: "Memory", width: "6.5rem", class: "right", sort: "memory" },
  { name: "Age", width: "6.5rem", class: "right wide", sort: "age" },
  { name: "In this state", width: "7rem", class: "right roomy", sort: "since" },
  { name: "Start reason", width: "8rem", class: "roomy" },
  { name: "Tenant", width: "7rem", class: "wide" },
];
// In a fleet, this lists the instances of all nodes.
const FLEET_COLUMNS: Column[] = [
  ...COLUMNS,
  { name: "Node", width: "6.5rem", class: "wide", sort: "node" },
];
const SORTS: Record<string, (instance: Instance) => string | number> = {
  name: (instance) => instance.function_name.toLowerCase(),
  state: (instance) => instance.state,
  memory: (instance) => instance.memory_mib,
  age: (instance) => instance.age_seconds,
  since: (instance) => instance.state_seconds,
  node: (instance) => instance.node_id,
};
const LEVELS: Record<string, [glyph: string, said: string]> = {
  ok: ["success", "fine"],
  warn: ["timeout", "to look at"],
  NO: ["failed", "missing"],
};
const text = signal("");

interface Machine {
  doctor: DoctorReport;
  info: SystemInfo;
  health: Health;
}

async function askMachine(signal: AbortSignal): Promise<Machine> {
  // Only operators may request this. If it is refused, the other requests are not sent.
  const doctor = await get<DoctorReport>("api/system/doctor", {}, signal);
  const [info, health] = await Promise.all([
    get<SystemInfo>("api/system/info", {}, signal),
    get<Health>("api/functions/health", {}, signal),
  ]);
  return { doctor, info, health };
}

function Facts({ of: { info, health } }: { of: Machine }) {
  const said: [string, unknown][] = [
    ["node", info.node_id],
    ["version", info.version],
    ["started", html`<${Ago} at=${info.started_at} />`],
    ["requests by", health.transport],
    ["durability", info.durability],
    ["control groups", groupsOf(info.cgroup_mode)],
  ];
  return html`<p class="facts">${
    said.map(([name, value]) => html`<span key=${name}>${name} <b>${value}</b></span>`)
  }</p>`;
}

function Checks({ of }: { of: Health }) {
  return html`
    <section class="card" aria-labelledby="checks">
      <header><h2 id="checks">Health</h2>
        <span class="push"><${Status} of=${of.ready ? "success" : "failed"} isQuiet /> ${of.ready
          ? "ready"
          : "not ready"}</span></header>
      <ul class="findings">${Object.entries(of.checks).map(([name, check]) =>
        html`
          <li
            key=${name}><${Status} of=${check.ok ? "success" : "failed"} isQuiet /><span>${name
              .replaceAll("_", " ")}</span><span class="muted">${readable(check.reason)}</span></li>
        `
      )}</ul>
    </section>
  `;
}

const isInFleet = (): boolean => who.value?.offers.includes("fleet") ?? false;

function Memory({ of }: { of: InstanceList }) {
  const counts = countsOf(of);
  const budget = of.memory["budget_mib"] ?? 0;
  const held = of.memory["held_mib"] ?? 0;
  const said = `${bytes(held * MIB)} of ${bytes(budget * MIB)} are held, ${percent(held, budget)}`;
  const keys: [string, string][] = [
    ["busy", `${count(counts.busy)} busy`],
    ["ready", `${count(counts.ready)} ready`],
    ["warming", `${count(counts.warming)} starting or stopping`],
    ["stock", `${count(of.prewarmed_count)} prewarmed`],
  ];
  const waiting: [string, number][] = [
    ["Instances", of.total_count],
    ["Prewarmed", of.prewarmed_count],
    ["Pending invocations", of.waiting_calls],
    ["Queued work", of.queued_calls],
  ];
  return html`
    <section class="card" aria-labelledby="memory">
      <header><h2 id="memory">${isInFleet() ? "Memory of all nodes" : "Memory"}</h2>
        <span class="push num">${said}</span></header>
      <div class="inside">
        <${Rail} parts=${memoryParts(of)} whole=${budget || 1} said=${said} />
        <p class="legend">${keys.map(([kind, words]) =>
          html`<span class=${`key ${kind}`} key=${kind}>${words}</span>`
        )}</p>
      </div>
      <dl class="figures last">${waiting.map(([name, n]) =>
        html`
          <div key=${name}>
            <dt>${name}</dt>
            <dd class="num">${count(n)}</dd>
          </div>
        `
      )}</dl>
    </section>
  `;
}

function Findings({ of }: { of: readonly Finding[] }) {
  const isAll = useSignal(false);
  const sorted = worstFirst(of);
  const bad = sorted.filter((finding) => finding.level !== "ok");
  const shown = isAll.value ? sorted : bad;
  return html`
    <section class="card after"
      aria-labelledby="findings"><header><h2 id="findings">System checks</h2>
        <span class="push muted num">${bad.length === 0
          ? `${of.length} things looked at, all fine`
          : `${bad.length} of ${of.length} to look at`}</span><button class="button" type="button" aria-pressed=${isAll
          .value} onClick=${() => {
          isAll.value = !isAll.value;
        }}>${isAll.value ? "Only these" : "All"}</button></header>
        ${shown.length > 0 && html`<ul class="findings">${
          shown.map((finding) => {
            const [glyph, word] = LEVELS[finding.level] ?? ["failed", finding.level];
            return html`
              <li
                key=${finding
                  .name}><span title=${word}><${Status} of=${glyph} isQuiet /></span><span>${readable(
                    finding.sentence,
                  )}</span>
                      <span class="muted">${finding.advice}</span></li>
            `;
          })
        }</ul>`}</section>
  `;
}

function Protections({ of }: { of: Record<string, string> }) {
  return html`
    <section class="card after" aria-labelledby="protections">
      <header>
        <h2 id="protections">Protections in force</h2>
      </header>
      <dl class="pairs">${Object.entries(of).map(([name, value]) =>
        html`
          <dt key=${name}>${name.replaceAll("_", " ")}</dt>
          <dd>${readable(value)}</dd>
        `
      )}</dl>
    </section>
  `;
}

function Row({ instance, tabindex }: { instance: Instance; tabindex: number }) {
  return html`
    <span role="cell"
      class="name"><div>${instance.function_name && instance.tenant_id === who.value?.tenant_id
        ? html`<a href=${
          href(["functions", instance.function_id])
        } tabindex=${tabindex}>${instance.function_name}</a>`
        : html`<span>${
          instance.function_name || "deleted function"
        }</span>`}<small>number ${instance
        .number}, version ${instance.version}</small></div></span>
    <span role="cell"><${Status} of=${instance.state} /></span>
    <span role="cell" class="num small right">${bytes(instance.memory_mib * MIB)}</span>
    <span role="cell" class="num small right wide">${duration(instance.age_seconds * 1000)}</span>
    <span role="cell" class="num small right roomy">${duration(
      instance.state_seconds * 1000,
    )}</span>
    <span role="cell" class="small muted roomy">${instance.start_reason.replaceAll("_", " ")}</span>
    <span role="cell" class="small muted wide clip">${instance.tenant_id}</span>
    ${isInFleet() &&
      html`<span role="cell" class="small wide clip">${instance.node_id}</span>`}
  `;
}

function Instances({ of }: { of: InstanceList }) {
  const sorted = useSignal({ by: "age", isDown: true });
  const { by, isDown } = sorted.value;
  const value = SORTS[by] as (instance: Instance) => string | number;
  const found = of.instances.filter((instance) =>
    fits(text.value, instance.function_name, instance.state, instance.tenant_id, instance.node_id)
  );
  found.sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    return (left < right ? -1 : left > right ? 1 : 0) * (isDown ? -1 : 1);
  });
  const rest = of.total_count - of.instances.length;
  return html`
    <div
      class="bar after"><h2>${isInFleet()
        ? "Instances of all nodes"
        : "Instances"}</h2><span class="muted num">${count(of.total_count)}${rest > 0
        ? `, the oldest ${count(of.instances.length)} of them here`
        : ""}</span></div>
        ${of.instances.length > 0 && html`
          <div class="bar">
            <${Search} text=${text}
              label=${isInFleet()
                ? "Search by function, state or node"
                : "Search by function, state or tenant"} />
          </div>
        `}
        ${found.length > 0
          ? html`
            <${List} label="Instances" columns=${isInFleet()
              ? FLEET_COLUMNS
              : COLUMNS} items=${found}
              sorted=${sorted.value} onSort=${(chosen: string) => {
                sorted.value = { by: chosen, isDown: chosen === by ? !isDown : chosen !== "name" };
              }} keyOf=${(instance: Instance) =>
                `${instance.node_id} ${instance.function_id} ${instance.number}`}
              cells=${(instance: Instance, tabindex: number) =>
                html`<${Row} instance=${instance} tabindex=${tabindex} />`} />
          `
          : html`<p class="card empty">${
            of.instances.length > 0
              ? "No matching instances."
              : `No instance at the moment${
                of.prewarmed_count
                  ? `; ${counted(of.prewarmed_count, "sandbox", "sandboxes")} prewarmed`
                  : ""
              }.`
          }</p>`}
  `;
}

function Board({ of }: { of: Machine }) {
  const { value, problem, again } = useFetched(
    (signal) => get<InstanceList>("api/instances", {}, signal),
    [],
  );
  useAgain(again, INSTANCES_EVERY_MS);
  const list = value.value;
  return html`<${Facts} of=${of} />
    ${problem.value && html`<${Problem} of=${problem.value} onRetry=${again} />`}
    <div class="grid">${list && html`<${Memory} of=${list} />`}<${Checks} of=${of.health} /></div>
    <${Findings} of=${of.doctor.findings} />
    <${Tenants} />
    ${list && html`<${Instances} of=${list} />`}
    <${Protections} of=${of.doctor.protections} />`;
}

export default function Node() {
  const { value, problem, again } = useFetched(askMachine, []);
  useAgain(() => value.peek() && again(), REST_EVERY_MS);
  return html`
    <div class="bar">
      <h1>Node</h1>
    </div>
    ${isInFleet() &&
      html`
        <p
          class="muted">Health, findings and protections are those of the node that answers. <a href="#/fleet">All nodes</a></p>
      `}
    ${problem.value && html`<${Problem} of=${problem.value} onRetry=${again} />`}
    ${value.value ? html`<${Board} of=${value.value} />` : !problem.value && html`<${Waiting} />`}
  `;
}
