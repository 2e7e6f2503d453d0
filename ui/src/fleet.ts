// Data for the fleet's pages: the state of a node in a word, its possible actions, and the placement of
// each function's instances.
import type { FunctionOnNode, Node } from "./wire.ts";

/** The state of a node, in one word. */
export function stateOf(node: Node): string {
  if (node.state === "removed") return "removed";
  if (node.presence !== "present") return node.presence;
  return node.is_silent ? "silent" : node.state;
}

/** Whether a node is present, as far as known; not if it stopped, was taken over or was removed. */
export const isThere = (node: Node): boolean =>
  node.presence === "present" && node.state !== "removed";

/** Whether the reported load of a node is current. */
export const isHeard = (node: Node): boolean => isThere(node) && !node.is_silent;

export type Verb = "drain" | "cordon" | "uncordon" | "remove";

/** The actions for a node. */
export function verbsOf(node: Node): Verb[] {
  if (node.state === "removed" || !node.address) return [];
  if (node.state === "ready") return ["cordon", "drain", "remove"];
  return node.state === "cordoned" ? ["uncordon", "drain", "remove"] : ["uncordon", "remove"];
}

/** The reason for a node's state, as a sentence; empty if there is nothing to explain. */
export function reasonOf(node: Node): string {
  switch (stateOf(node)) {
    case "removed":
      return "It was removed from the fleet; no server with this name can join again.";
    case "left":
      return "It stopped properly; the other nodes take over its work.";
    case "gone":
      return "Another node took over its work. It comes back once it is started again.";
    case "silent":
      return "It has sent no heartbeat for a while. If this lasts too long, another node takes it over.";
    case "draining":
      return node.running_calls > 0
        ? "It accepts no invocations and starts no queued ones; running ones finish."
        : "It accepts no invocations and starts no queued ones. Nothing runs there: it can be stopped.";
    case "cordoned":
      return "It starts no queued invocations and accepts none from other nodes; requests to the node itself still run.";
  }
  return "";
}

export interface Question {
  title: string;
  text: string;
  verb: string;
}

const calls = (n: number): string => n === 1 ? "the call" : `the ${n} calls`;

/** The confirmation for an action on a node; null: no confirmation is needed. `all`: the nodes of
 * the fleet.
 */
export function questionOf(verb: Verb, node: Node, all: readonly Node[]): Question | null {
  const takesCalls = (other: Node) => other.name !== node.name && stateOf(other) === "ready";
  const isLast = !all.some(takesCalls);
  if (verb === "drain") {
    const last = isLast ? " No other node takes calls: the fleet will serve none." : "";
    const text = `Calls go to other nodes, and ${
      node.running_calls ? `${calls(node.running_calls)} that it has can end` : "it has none now"
    }.${last} It stays so, also after a restart, until it is uncordoned.`;
    return { title: `Drain ${node.name}?`, text, verb: "Drain" };
  }
  if (verb !== "remove") return null;
  const running = isThere(node) && node.running_calls > 0
    ? `It ends within seconds, and ${
      calls(node.running_calls)
    } that it runs with it: drain it first. `
    : isThere(node)
    ? "It ends within seconds. "
    : "";
  const text = `${running}No server of this name starts in the fleet again.`;
  return { title: `Remove ${node.name} for good?`, text, verb: "Remove" };
}

/** A function, and its instances by node. */
export interface Placed {
  of: FunctionOnNode;
  total: number;
  waiting: number;
  places: { node: string; busy: number; ready: number; waiting: number }[];
}

/** All functions that have instances or invocations on any node, those with most instances
 * first.
 */
export function placesOf(nodes: readonly Node[]): Placed[] {
  const all = new Map<string, Placed>();
  for (const node of nodes) {
    for (const of of node.functions ?? []) {
      const found: Placed = all.get(of.function_id) ?? { of, total: 0, waiting: 0, places: [] };
      const { busy_instances: busy, ready_instances: ready, waiting_calls: waiting } = of;
      found.total += busy + ready;
      found.waiting += waiting;
      found.places.push({ node: node.name, busy, ready, waiting });
      all.set(of.function_id, found);
    }
  }
  return [...all.values()].sort((a, b) =>
    b.total - a.total || a.of.function_name.localeCompare(b.of.function_name)
  );
}

/** The sums over all reachable nodes. */
export function totalsOf(nodes: readonly Node[]) {
  const there = nodes.filter(isHeard);
  const sum = (of: (node: Node) => number): number =>
    there.reduce((sum, node) => sum + of(node), 0);
  return {
    ready: there.filter((node) => stateOf(node) === "ready").length,
    members: nodes.filter((node) => node.state !== "removed").length,
    running: sum((node) => node.running_calls),
    waiting: sum((node) => node.waiting_calls),
    instances: sum((node) => node.busy_instances + node.ready_instances),
    free_mib: sum((node) => node.memory_free_mib),
  };
}
