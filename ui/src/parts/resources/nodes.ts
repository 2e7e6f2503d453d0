// Parts that both fleet pages use: a picture of instances, and the actions for a node.
import { call } from "../../api.ts";
import { isHeard, questionOf, type Verb, verbsOf } from "../../fleet.ts";
import { html } from "../../html.ts";
import type { Node } from "../../wire.ts";
import { duration } from "../text/format.ts";
import { confirm } from "../controls/confirm.ts";
import { toast, toastError } from "../controls/toast.ts";

const CELLS_MOST = 12;
const SAID: Record<Verb, string> = {
  drain: "is drained: it accepts no invocations.",
  cordon: "is cordoned: it starts no queued invocations.",
  uncordon: "accepts and starts invocations again.",
  remove: "is removed from the fleet.",
};
const NAMES: Record<Verb, string> = {
  drain: "Drain",
  cordon: "Cordon",
  uncordon: "Uncordon",
  remove: "Remove",
};

/** Values with their names. */
export function Figures({ said }: { said: readonly [string, string][] }) {
  return html`<dl class="figures card fleet">${
    said.map(([name, value]) =>
      html`
        <div key=${name}>
          <dt>${name}</dt>
          <dd class="num">${value}</dd>
        </div>
      `
    )
  }</dl>`;
}

/** A cell for each instance, if there are few. `where`: a prefix for screen readers. */
export function Cells(
  { busy, ready, where = "" }: { busy: number; ready: number; where?: string },
) {
  const words = `${where}${busy} busy, ${ready} ready`;
  if (busy + ready === 0) return html`<span class="muted" title=${words}>–</span>`;
  const isFew = busy + ready <= CELLS_MOST;
  return html`
    <span class="pool" role="img" aria-label=${words}
      title=${words}>${isFew && html`<span class="cells">${
        Array.from(
          { length: busy + ready },
          (_, n) => html`<i class=${n < busy ? "busy" : "ready"} key=${n} />`,
        )
      }</span>`}<span class="num small muted">${isFew ? busy + ready : words}</span></span>
  `;
}

/** Sends an action to a node, after a confirmation if one is needed. `all`: the nodes of the
 * fleet.
 */
async function tell(
  verb: Verb,
  node: Node,
  all: readonly Node[],
  again: () => Promise<void>,
): Promise<void> {
  const question = questionOf(verb, node, all);
  if (question && !await confirm(question)) return;
  const path = `api/nodes/${encodeURIComponent(node.name)}`;
  try {
    if (verb === "remove") await call("DELETE", path);
    else await call("POST", `${path}/${verb}`);
    toast(`${node.name} ${SAID[verb]}`);
  } catch (error) {
    toastError(error);
  }
  await again();
}

/** A button for each possible action in `verbs`. */
export function NodeActions({ node, all, again, verbs }: {
  node: Node;
  all: readonly Node[];
  again: () => Promise<void>;
  verbs: readonly Verb[];
}) {
  return verbsOf(node).filter((verb) => verbs.includes(verb)).map((verb) =>
    html`
      <button class="button above" type="button"
        key=${verb} aria-label=${`${NAMES[verb]} ${node.name}`} onClick=${() =>
          tell(verb, node, all, again)}>${NAMES[verb]}</button>
    `
  );
}

/** A duration in seconds, which nodes report to a tenth. */
export const seconds = (s: number): string => s < 60 ? `${s.toFixed(1)} s` : duration(s * 1000);

/** Data that is only valid while the node is reachable. */
export function Now({ of, children }: { of: Node; children?: unknown }) {
  return isHeard(of) ? children : html`<span class="muted">–</span>`;
}
