// The network access of a function: who can reach it, and which addresses it can reach.
import { get } from "../../api.ts";
import { html } from "../../html.ts";
import { useFetched, Waiting } from "../../parts/lists/fetched.ts";
import { counted } from "../../parts/text/format.ts";
import { Notice } from "../../parts/lists/notice.ts";
import type { Egress, Function } from "../../wire.ts";
import { Url } from "./url.ts";

const NETWORKS: Record<string, string> = {
  none: "No network access (set in its runtime).",
  egress: "Access to public addresses (set in its runtime).",
};

export function Network({ fn }: { fn: Function }) {
  const { value, problem, again } = useFetched(
    (signal) => get<Egress>(`api/functions/${fn.id}/egress`, {}, signal),
    [fn.id, fn.current_version],
  );
  const egress = value.value;
  return html`
    <${Url} fn=${fn} />
    ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
    <section class="card after" aria-labelledby="egress">
      <header><h2 id="egress">Outgoing connections</h2></header>
      ${egress ? html`<${Outgoing} of=${egress} />` : html`<${Waiting} />`}
    </section>
  `;
}

function Outgoing({ of }: { of: Egress }) {
  const refused = of.blocked_destinations ?? [];
  return html`
    <div class="inside"><p>${NETWORKS[of.network] ?? of.network}</p>
      ${of.network !== "none" &&
        html`<p class="muted">${counted(of.blocked_count, "attempt")} to reach others ${
          of.blocked_count === 1 ? "was" : "were"
        } refused.</p>`}</div>
    ${refused.length > 0 && html`
      <div class="scrolls">
        <table class="table">
          <thead>
            <tr>
              <th>Refused address</th>
              <th>Port</th>
              <th>Protocol</th>
            </tr>
          </thead>
          <tbody>${refused.map(({ address, port, protocol }) =>
            html`
              <tr key=${`${address} ${port} ${protocol}`}>
                <td class="mono small">${address}</td>
                <td
                  class="num small">${port}</td>
                <td class="small">${protocol}</td>
              </tr>
            `
          )}</tbody>
        </table>
      </div>
    `}
  `;
}
