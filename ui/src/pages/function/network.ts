// Who reaches a function, and what it reaches.
import { get } from "../../api.ts";
import { html } from "../../html.ts";
import { useFetched } from "../../parts/fetched.ts";
import { count } from "../../parts/format.ts";
import { Notice } from "../../parts/notice.ts";
import type { Egress, Function } from "../../wire.ts";
import { Url } from "./url.ts";

const NETWORKS: Record<string, string> = {
  none: "It reaches nothing but itself: its runtime has network none.",
  egress: "It reaches public addresses: its runtime has network egress.",
};

export function Network({ one }: { one: Function }) {
  const { value, problem, again } = useFetched(
    (signal) => get<Egress>(`api/functions/${one.id}/egress`, {}, signal),
    [one.id, one.current_version],
  );
  const egress = value.value;
  return html`
    <${Url} one=${one} />
    ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
    ${egress && html`
      <section class="card after" aria-labelledby="egress">
        <header>
          <h2 id="egress">Outgoing
            connections</h2>
        </header>
        <div class="inside">
          <p>${NETWORKS[egress.network] ?? egress.network}</p>
          <p class="muted">${egress.network === "none"
            ? ""
            : `${count(egress.blocked_count)} attempts to reach others were refused.`}</p>
        </div>
      </section>
    `}
  `;
}
