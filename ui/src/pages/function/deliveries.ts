// Deliveries of outcomes to the destinations in the async policy.
import { useEffect } from "preact/hooks";
import { call } from "../../api.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/text/ansi.ts";
import { Waiting } from "../../parts/lists/fetched.ts";
import { counted, exact } from "../../parts/text/format.ts";
import { Notice } from "../../parts/lists/notice.ts";
import { Ago } from "../../parts/text/time.ts";
import { toast, toastError } from "../../parts/controls/toast.ts";
import { href } from "../../router.ts";
import { may } from "../../scope.ts";
import { onEvent } from "../../store.ts";
import type { Delivery, Function } from "../../wire.ts";
import { More, usePaged } from "./paged.ts";

const LOOKED_AT_EVERY_MS = 5_000; // there are no events for tries

/** When a delivery is retried, or when it ended. */
function When({ of }: { of: Delivery }) {
  const next = of.next_attempt_at;
  return next !== null ? html`next ${exact(next)}` : html`<${Ago} at=${of.ended_at} />`;
}

function Row({ of, onRetry }: { of: Delivery; onRetry: () => void }) {
  const to = href(["functions", of.function_id, "invocations", of.invocation_id]);
  const why = visible(of.error_message ?? "");
  return html`
    <tr>
      <td><b class=${of.status === "failed" ? "some" : ""}>${of.status}</b>
        <p class="narrow muted small">${why && `${why}, `}<${When} of=${of} /></p></td>
      <td><a
        href=${to}>${of.policy_field === "on_success" ? "success" : "failure"}</a></td>
      <td class="num small">${counted(of.attempts, "try", "tries")}${of.http_status !== null &&
        html`<span class="muted">, HTTP ${of.http_status}</span>`}</td>
      <td class="small wide">${why}</td>
      <td class="small num wide">
        <${When} of=${of} />
      </td>
      <td class="right">${may("write") && of.status !== "delivered" &&
        html`
          <button class="button" type="button" onClick=${onRetry}
            aria-label=${`Retry ${of.delivery_id}`}>Retry</button>
        `}</td>
    </tr>
  `;
}

export function Deliveries({ fn }: { fn: Function }) {
  const path = `api/functions/${fn.id}/deliveries`;
  const list = usePaged<Delivery>(path, "deliveries", [fn.id]);
  const { all, problem } = list;
  const isOpen = all?.some((each) => each.status === "waiting") ?? false;
  useEffect(() => {
    const end = onEvent((event) => {
      if (event.function_id === fn.id && event.type === "invocation.ended") list.more();
    });
    const timer = isOpen ? setInterval(() => list.more(), LOOKED_AT_EVERY_MS) : undefined;
    return () => {
      end();
      clearInterval(timer);
    };
  }, [fn.id, isOpen]);
  async function retry(of: Delivery) {
    try {
      await call("POST", `${path}/${of.delivery_id}/retry`);
      await list.more();
      toast("It is tried again.");
    } catch (error) {
      toastError(error);
    }
  }
  return html`<section class="card after" aria-labelledby="deliveries"><header><h2 id="deliveries"
    >Deliveries</h2></header>${
    problem && html`<${Notice} of=${problem} onRetry=${() => list.more()} />`
  }${
    !all
      ? html`<${Waiting} />`
      : (all.length === 0 ? html`<p class="empty">Nothing was sent to a destination.</p>` : html`
        <div class="scrolls">
          <table class="table">
            <thead>
              <tr>
                <th>Status</th>
                <th>Of a</th>
                <th>After</th>
                <th class="wide">Why</th>
                <th class="wide">When</th>
                <th><span class="hidden-visually">What can be
                done</span></th>
              </tr>
            </thead>
            <tbody>${all.map((each) =>
              html`<${Row} of=${each} key=${each.delivery_id} onRetry=${() => retry(each)} />`
            )}</tbody>
          </table>
        </div>
        <${More} of=${list} />
      `)
  }</section>`;
}
