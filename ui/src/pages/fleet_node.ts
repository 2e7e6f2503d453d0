// One node of a fleet: its state and actions, and the functions with instances there.
import { get } from "../api.ts";
import { html } from "../html.ts";
import { isHeard, isThere, reasonOf, stateOf, type Verb } from "../fleet.ts";
import type { PageProps } from "../page_props.ts";
import { useAgain, useFetched, Waiting } from "../parts/lists/fetched.ts";
import { bytes, count, counted, MIB } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Cells, Figures, NodeActions, seconds } from "../parts/resources/nodes.ts";
import { Problem } from "../parts/lists/problem.ts";
import { Status } from "../parts/invocation/status.ts";
import { useTitle } from "../parts/text/title.ts";
import { href } from "../router.ts";
import { who } from "../store.ts";
import type { FunctionOnNode, Node, NodeList } from "../wire.ts";

const EVERY_MS = 2_000;
const VERBS: readonly Verb[] = ["uncordon", "cordon", "drain", "remove"];
const COLUMNS: Column[] = [
  { name: "Function", width: "minmax(12rem, 1fr)" },
  { name: "Version", width: "5rem", class: "right wide" },
  { name: "Instances", width: "12rem" },
  { name: "Pending invocations", width: "7rem", class: "right wide" },
  { name: "Tenant", width: "8rem", class: "wide" },
];

interface Both {
  node: Node;
  all: readonly Node[];
}

function Facts({ of: node }: { of: Node }) {
  const said: [string, string][] = [
    ["address", node.address || "none: it is alone"],
    ["version", node.version],
    ["start", `number ${node.epoch}`],
  ];
  if (isThere(node)) {
    said.push(["last beat", `${seconds(node.beat_age_seconds)} ago`]);
  }
  if (isHeard(node)) {
    said.push(["lag", seconds(node.lag_seconds)]);
  }
  return html`<p class="facts">${
    said.map(([name, value]) => html`<span key=${name}>${name} <b>${value}</b></span>`)
  }${node.is_own && html`<span>it answers this page</span>`}</p>`;
}

function Load({ of: node }: { of: Node }) {
  const said: [string, string][] = [
    ["Calls that run", count(node.running_calls - node.waiting_calls)],
    ["Pending invocations", count(node.waiting_calls)],
    ["Instances", `${count(node.busy_instances)} busy, ${count(node.ready_instances)} ready`],
    ["Free memory", bytes(node.memory_free_mib * MIB)],
  ];
  return html`<${Figures} said=${said} />`;
}

function Row({ fn, tabindex }: { fn: FunctionOnNode; tabindex: number }) {
  const isMine = fn.function_name && fn.tenant_id === who.value?.tenant_id;
  return html`
    <span role="cell" class="name"><div>${isMine
      ? html`<a href=${
        href(["functions", fn.function_id])
      } tabindex=${tabindex}>${fn.function_name}</a>`
      : html`<span>${fn.function_name || "deleted function"}</span>`}</div></span>
    <span role="cell" class="num small right wide">${fn.version}</span>
    <span role="cell"><${Cells} busy=${fn.busy_instances} ready=${fn.ready_instances} /></span>
    <span role="cell" class="num small right wide">${fn.waiting_calls
      ? counted(fn.waiting_calls, "call")
      : html`<span class="muted">none</span>`}</span>
    <span role="cell" class="small muted wide clip">${fn.tenant_id}</span>
  `;
}

function Functions({ of }: { of: readonly FunctionOnNode[] }) {
  return html`<div class="bar after"><h2>Functions there</h2><span class="muted num">${
    count(of.length)
  }</span></div>
    ${
    of.length > 0
      ? html`
        <${List} label="Functions there" columns=${COLUMNS} items=${of}
          keyOf=${(fn: FunctionOnNode) => fn.function_id}
          cells=${(fn: FunctionOnNode, tabindex: number) =>
            html`<${Row} fn=${fn} tabindex=${tabindex} />`} />
      `
      : html`<p class="card empty">No function has an instance there.</p>`
  }`;
}

export default function FleetNode({ name = "" }: PageProps) {
  const path = `api/nodes/${encodeURIComponent(name)}`;
  const { value, problem, again } = useFetched(
    async (signal): Promise<Both> => {
      const [node, all] = await Promise.all([
        get<Node>(path, {}, signal),
        get<NodeList>("api/nodes", {}, signal),
      ]);
      return { node, all: all.nodes };
    },
    [path],
  );
  useAgain(() => value.peek() && again(), EVERY_MS);
  useTitle(name);
  const both = value.value;
  if (!both) {
    return problem.value
      ? html`<${Problem} of=${problem.value} onRetry=${again} />`
      : html`<${Waiting} />`;
  }
  const { node, all } = both;
  const reason = reasonOf(node);
  return html`<p class="crumbs"><a href="#/fleet">Fleet</a> / ${name}</p>
    ${problem.value && html`<${Problem} of=${problem.value} onRetry=${again} />`}
    <div class="title"><h1>${name}</h1><${Status} of=${stateOf(node)} />
      <span class="actions"><${NodeActions} node=${node} all=${all} again=${again} verbs=${VERBS} /></span></div>
    <${Facts} of=${node} />
    ${reason && html`<p class="strip card">${reason}</p>`}
    ${isHeard(node) && html`<${Load} of=${node} />`}
    ${isHeard(node) && html`<${Functions} of=${node.functions ?? []} />`}`;
}
