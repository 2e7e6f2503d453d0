// The nodes of a fleet, for operators: their states and actions, and the placement of instances.
import { signal } from "@preact/signals";
import { get } from "../api.ts";
import { html } from "../html.ts";
import { isThere, type Placed, placesOf, stateOf, totalsOf } from "../fleet.ts";
import { Copy } from "../parts/controls/copy.ts";
import { useAgain, useFetched, Waiting } from "../parts/lists/fetched.ts";
import { bytes, count, counted, MIB } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Cells, Figures, NodeActions, Now, seconds } from "../parts/resources/nodes.ts";
import { Problem } from "../parts/lists/problem.ts";
import { fits, Search } from "../parts/controls/search.ts";
import { Status } from "../parts/invocation/status.ts";
import { href } from "../router.ts";
import { who } from "../store.ts";
import type { Node, NodeList } from "../wire.ts";

const EVERY_MS = 2_000;
const PLACES_MOST = 6; // maximum nodes named in a row
const COLUMNS: Column[] = [
  { name: "Node", width: "minmax(9rem, 1fr)" },
  { name: "State", width: "6.5rem" },
  { name: "Last heartbeat", width: "5rem", class: "right roomy" },
  { name: "Calls", width: "5.5rem", class: "right wide" },
  { name: "Instances", width: "8.5rem" },
  { name: "Free memory", width: "6rem", class: "right roomy" },
  { name: "Lag", width: "4.5rem", class: "right roomy" },
  { name: "Version", width: "4.5rem", class: "roomy" },
  { name: "", width: "7rem", class: "right wide" },
];
const PLACED: Column[] = [
  { name: "Function", width: "minmax(11rem, 18rem)" },
  { name: "Where", width: "minmax(0, 1fr)" },
  { name: "Pending invocations", width: "7rem", class: "right wide" },
  { name: "Instances", width: "5rem", class: "right" },
];
const text = signal("");

const askNodes = (signal: AbortSignal): Promise<NodeList> =>
  get<NodeList>("api/nodes", { view: "full" }, signal);

function Totals({ of }: { of: readonly Node[] }) {
  const all = totalsOf(of);
  const said: [string, string][] = [
    ["Nodes that take calls", `${all.ready} of ${all.members}`],
    [
      "Calls",
      all.waiting ? `${count(all.running)}, ${count(all.waiting)} wait` : count(all.running),
    ],
    ["Instances", count(all.instances)],
    ["Free memory", bytes(all.free_mib * MIB)],
  ];
  return html`<${Figures} said=${said} />`;
}

function Row({ node, all, tabindex, again }: {
  node: Node;
  all: readonly Node[];
  tabindex: number;
  again: () => Promise<void>;
}) {
  const waits = node.waiting_calls ? ` (${count(node.waiting_calls)} wait)` : "";
  return html`
    <span role="cell" class="name"><div><a href=${href(["fleet", node.name])}
      tabindex=${tabindex}>${node.name}</a><small>${node.address ||
        "alone"}${node.is_own && all.length > 1 ? ", answers this page" : ""}</small></div></span>
    <span role="cell"><${Status} of=${stateOf(node)} /></span>
    <span role="cell" class="num small right roomy">${isThere(node)
      ? seconds(node.beat_age_seconds)
      : html`<span class="muted">–</span>`}</span>
    <span role="cell"
      class="num small right wide"><${Now} of=${node}>${count(
        node.running_calls,
      )}${waits}<//></span>
    <span role="cell"><${Now} of=${node}><${Cells} busy=${node.busy_instances}
      ready=${node.ready_instances} /><//></span>
    <span role="cell" class="num small right roomy"><${Now} of=${node}>${bytes(
      node.memory_free_mib * MIB,
    )}<//></span>
    <span role="cell" class="num small right roomy"><${Now} of=${node}>${seconds(
      node.lag_seconds,
    )}<//></span>
    <span role="cell" class="small muted roomy clip">${node.version}</span>
    <span role="cell" class="right wide"><${NodeActions} node=${node} all=${all} again=${again}
      verbs=${["uncordon", ...(node.state === "ready" ? ["drain"] : [])]} /></span>
  `;
}

function PlacedRow({ placed, tabindex }: { placed: Placed; tabindex: number }) {
  const { of, places } = placed;
  const rest = places.length - PLACES_MOST;
  const isMine = of.function_name && of.tenant_id === who.value?.tenant_id;
  return html`
    <span role="cell"
      class="name"><div>${isMine
        ? html`<a href=${
          href(["functions", of.function_id])
        } tabindex=${tabindex}>${of.function_name}</a>`
        : html`<span>${of.function_name || "deleted function"}</span>`}<small>version ${of
        .version}${isMine ? "" : `, ${of.tenant_id}`}</small></div></span>
    <span role="cell" class="places">${places.slice(0, PLACES_MOST).map((at) =>
      html`<span class="place" key=${at.node}><span class="small">${at.node}</span><${Cells}
        busy=${at.busy} ready=${at.ready} where=${`on ${at.node}: `} /></span>`
    )}${rest > 0 && html`<span class="small muted">and ${counted(rest, "node")} more</span>`}</span>
    <span role="cell" class="num small right wide">${placed.waiting
      ? count(placed.waiting)
      : "–"}</span>
    <span role="cell" class="num small right">${count(placed.total)}</span>
  `;
}

function Places({ of }: { of: readonly Node[] }) {
  const all = placesOf(of);
  const found = all.filter((placed) =>
    fits(
      text.value,
      placed.of.function_name,
      placed.of.tenant_id,
      ...placed.places.map((at) => at.node),
    )
  );
  const hidden = of.filter((node) => node.functions && node.function_count > node.functions.length);
  return html`
    <div
      class="bar after"><h2>Where instances are</h2><span class="muted num">${counted(
        all.length,
        "function",
      )}${hidden.length > 0
        ? `; of ${counted(hidden.length, "node")} those with most instances`
        : ""}</span></div>
        ${all.length > 0 &&
          html`
            <div class="bar">
              <${Search} text=${text} label="Search by function, tenant or node" />
            </div>
          `}
        ${found.length > 0
          ? html`
            <${List} label="Where instances are" columns=${PLACED}
              items=${found} keyOf=${(placed: Placed) => placed.of.function_id}
              cells=${(placed: Placed, tabindex: number) =>
                html`<${PlacedRow} placed=${placed} tabindex=${tabindex} />`} />
          `
          : html`<p class="card empty">${
            all.length > 0 ? "No matching functions." : "No function has an instance at the moment."
          }</p>`}
  `;
}

function Board({ nodes, again }: { nodes: readonly Node[]; again: () => Promise<void> }) {
  const isAlone = nodes.every((node) => !node.address);
  return html`
    <${Totals} of=${nodes} />
        <${List} label="Nodes" columns=${COLUMNS} items=${nodes}
      keyOf=${(node: Node) => node.name} cells=${(node: Node, tabindex: number) =>
        html`<${Row} node=${node} all=${nodes} tabindex=${tabindex} again=${again} />`} />
        ${isAlone && html`
          <div class="empty teach">
            <p>This server is alone. Several that share one PostgreSQL are a fleet:</p>
            <${Copy} text="quiltfn fleet init --store postgresql://USER@HOST/DATABASE" />
          </div>
        `}
        <${Places} of=${nodes} />
  `;
}

export default function Fleet() {
  const { value, problem, again } = useFetched(askNodes, []);
  useAgain(() => value.peek() && again(), EVERY_MS);
  const nodes = value.value?.nodes;
  return html`<div class="bar"><h1>Fleet</h1><span class="muted num" role="status">${
    nodes && counted(nodes.length, "node")
  }</span></div>
    ${problem.value && html`<${Problem} of=${problem.value} onRetry=${again} />`}
    ${
    nodes ? html`<${Board} nodes=${nodes} again=${again} />` : !problem.value &&
      html`<${Waiting} />`
  }`;
}
