// Calculations for the page of the node: the parts of the memory budget, and the order of findings.
import { bytes, MIB } from "./parts/text/format.ts";
import type { Part } from "./parts/charts/rail.ts";
import type { Finding, Instance, InstanceList } from "./wire.ts";

const ALONE_MOST = 120; // up to this many instances get their own parts
const KINDS = ["busy", "ready", "warming"] as const;
type Kind = typeof KINDS[number];

/** The kind of an instance in the picture, by its state: parked ones count as ready; starting,
 * recycling and stopping ones as warming.
 */
export function kindOf(state: string): Kind {
  return state === "busy" ? "busy" : state === "ready" || state === "parked" ? "ready" : "warming";
}

const byKind = (instances: readonly Instance[], kind: Kind): Instance[] =>
  instances.filter((instance) => kindOf(instance.state) === kind);
const sum = (instances: readonly Instance[]): number =>
  instances.reduce((sum, instance) => sum + instance.memory_mib, 0);

/** The memory budget in parts: instances (up to `ALONE_MOST` one by one, otherwise by kind), then
 * prewarmed sandboxes, then the memory of instances that are not in the list.
 */
export function memoryParts(list: InstanceList): Part[] {
  const { instances, memory } = list;
  const isMany = instances.length > ALONE_MOST;
  const parts = KINDS.flatMap((kind): Part[] => {
    const some = byKind(instances, kind);
    if (isMany) return [{ kind, size: sum(some), title: `${some.length} ${kind}` }];
    return some.map((instance) => ({
      kind,
      size: instance.memory_mib,
      title: instance.function_name,
    }));
  });
  const stock = memory["prewarmed_mib"] ?? 0;
  const others = (memory["held_mib"] ?? 0) - stock - sum(instances);
  parts.push({ kind: "stock", size: stock, title: "prewarmed" });
  if (others > 1) parts.push({ kind: "other", size: others, title: "others" });
  return parts;
}

/** The number of instances of each kind. */
export function countsOf(list: InstanceList): Record<Kind, number> {
  const counts = { busy: 0, ready: 0, warming: 0 };
  for (const instance of list.instances) counts[kindOf(instance.state)]++;
  return counts;
}

const GROUPS: Record<string, string> = {
  v2: "version 2",
  v1: "version 1",
  hybrid: "version 1 beside version 2",
};

/** The control group versions of the machine. */
export const groupsOf = (mode: string): string => GROUPS[mode] ?? mode;

/** The explanation of a health check's result, with readable sizes and control groups. */
export function readable(said: string): string {
  return said.replace(/\b(\d{4,}) MiB\b/g, (_, n) => bytes(Number(n) * MIB))
    .replace(/\bcgroup (v1|v2|hybrid)\b/g, (_, mode) => `control groups ${groupsOf(mode)}`);
}

const RANKS: Record<string, number> = { NO: 0, warn: 1, ok: 2 };

/** Sorted with the worst first, otherwise in the original order. */
export const worstFirst = (findings: readonly Finding[]): Finding[] =>
  [...findings].sort((a, b) => (RANKS[a.level] ?? 0) - (RANKS[b.level] ?? 0));
