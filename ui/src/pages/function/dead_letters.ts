// Dead letters, which can be redriven or dropped.
import { useSignal } from "@preact/signals";
import { call } from "../../api.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/text/ansi.ts";
import { confirm } from "../../parts/controls/confirm.ts";
import { Waiting } from "../../parts/lists/fetched.ts";
import { counted } from "../../parts/text/format.ts";
import { Notice } from "../../parts/lists/notice.ts";
import { Status } from "../../parts/invocation/status.ts";
import { Ago } from "../../parts/text/time.ts";
import { toast, toastError } from "../../parts/controls/toast.ts";
import { href } from "../../router.ts";
import { may } from "../../scope.ts";
import type { DeadLetter, Function, RedriveResult } from "../../wire.ts";
import { More, usePaged } from "./paged.ts";

const WHY: Record<string, string> = {
  attempts: "no attempt was left",
  age: "too old to be started",
};

function Row({ of, id, onRedrive, onDrop }: {
  of: DeadLetter;
  /** The function's id. */
  id: string;
  onRedrive: () => void;
  onDrop: () => void;
}) {
  const to = href(["functions", id, "invocations", of.invocation_id]);
  return html`
    <tr>
      <td>
        <${Status} of=${of.status} />
      </td>
      <td class="num"><a href=${to}><${Ago}
        at=${of.died_at} /></a></td>
      <td class="num small">${counted(of.attempts, "attempt")}<span
        class="muted wide">, ${WHY[of.reason] ?? of.reason}</span></td>
      <td class="small wide long">
        ${visible(of.error_message ?? "")}
      </td>
      <td class="right">
        <div class="actions">${may("write") && html`
          <button class="button" type="button" onClick=${onRedrive}
            aria-label=${`Redrive ${of.invocation_id}`}>Redrive</button><button class="button" type="button"
            onClick=${onDrop} aria-label=${`Drop ${of.invocation_id}`}>Drop</button>
        `}</div>
      </td>
    </tr>
  `;
}

/** `count`: their number, as far as known; `again`: refetches the counts. */
export function DeadLetters({ fn, count, again }: {
  fn: Function;
  count: number;
  again: () => Promise<void>;
}) {
  const path = `api/functions/${fn.id}/dead-letters`;
  const list = usePaged<DeadLetter>(path, "dead_letters", [fn.id, count]);
  const isBusy = useSignal(false);
  async function doing(act: () => Promise<void>) {
    if (isBusy.peek()) return;
    isBusy.value = true;
    try {
      await act();
      await Promise.all([list.more(), again()]);
    } catch (error) {
      toastError(error);
    } finally {
      isBusy.value = false;
    }
  }
  const redrive = (body: object) =>
    doing(async () => {
      const { redriven, remaining } = await call<RedriveResult>("POST", `${path}/redrive`, {
        body,
      });
      const rest = remaining > 0 ? `, ${remaining} are left` : "";
      toast(`${counted(redriven, "call")} queued again${rest}.`);
    });
  const drop = (of: DeadLetter) =>
    doing(async () => {
      const isSure = await confirm({
        title: "Drop this dead letter?",
        text: "It cannot be queued again afterwards. The record of the call stays.",
        verb: "Drop",
      });
      if (isSure) await call("DELETE", `${path}/${of.invocation_id}`);
    });
  const { all, problem } = list;
  return html`
    <section class="card after"
      aria-labelledby="dead"><header><h2 id="dead">Dead letters</h2>${may("write") &&
        all !== null && all.length > 0 &&
        html`<button class="button push" type="button" onClick=${() =>
          redrive({ all: true })}>Redrive all</button>`}</header>${problem &&
        html`<${Notice} of=${problem} onRetry=${() => list.more()} />`}${!all
        ? html`<${Waiting} />`
        : (all.length === 0 ? html`<p class="empty">Nothing was given up.</p>` : html`
          <div class="scrolls">
            <table class="table">
              <thead>
                <tr>
                  <th>Ended</th>
                  <th>Given up</th>
                  <th>After</th>
                  <th class="wide">Why</th>
                  <th><span class="hidden-visually">What can be done</span></th>
                </tr>
              </thead>
              <tbody>${all.map((each) =>
                html`
                  <${Row} of=${each} id=${fn.id} key=${each.invocation_id}
                    onRedrive=${() => redrive({ invocation_ids: [each.invocation_id] })}
                    onDrop=${() => drop(each)} />
                `
              )}</tbody>
            </table>
          </div>
          <${More} of=${list} />
        `)}</section>
  `;
}
