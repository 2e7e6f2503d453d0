// Shows at the top of a function's page whether the function fails, with a link to the last
// failure.
import type { Signal } from "@preact/signals";
import { get } from "../../api.ts";
import { functionUrl } from "../../current.ts";
import { addressOf, fetchUrl } from "../../function_url.ts";
import { useEvents } from "../../hearing.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/text/ansi.ts";
import { Copy } from "../../parts/controls/copy.ts";
import { useFetched } from "../../parts/lists/fetched.ts";
import { Status } from "../../parts/invocation/status.ts";
import { Ago } from "../../parts/text/time.ts";
import { href } from "../../router.ts";
import { queryOf, sums } from "../../series.ts";
import { isError, isFailing, reasonOf } from "../../standing.ts";
import type {
  Function,
  FunctionStats,
  InvocationSummary,
  InvocationSummaryPage,
  Series,
} from "../../wire.ts";

const LOOKED_AT_EVERY_MS = 2_000;
const LATEST = 20; // invocations among which the last error is searched

export interface Health {
  lastHour: Pick<FunctionStats, "calls" | "errors">;
  lastError: InvocationSummary | null;
}

/** Follows the outcomes of a function's invocations; null until they are loaded. */
export function useHealth(id: string): Signal<Health | null> {
  const { value, again } = useFetched(async (signal) => {
    const query = { function_id: id, limit: LATEST };
    const [series, latest] = await Promise.all([
      get<Series>(`api/functions/${id}/series`, queryOf("hour", Date.now() / 1000), signal),
      get<InvocationSummaryPage>("api/invocations", query, signal),
    ]);
    return { lastHour: sums(series), lastError: latest.invocations.find(isError) ?? null };
  }, [id]);
  useEvents(id, /^(invocation\.ended|calls)$/, LOOKED_AT_EVERY_MS, again);
  return value;
}

/** The state. If every invocation fails, it has no check mark. */
export function State({ fn, health }: { fn: Function; health: Health | null }) {
  const isBad = isFailing(fn, health?.lastHour ?? null);
  return html`<${Status} of=${isBad ? "failing" : fn.state} said=${
    isBad ? `${fn.state}, failing` : fn.state
  } />`;
}

export function LastError({ of }: { of: InvocationSummary | null }) {
  if (of === null) return null;
  const to = href(["functions", of.function_id, "invocations", of.invocation_id]);
  return html`
    <p class="last-error small"><${Status} of=${of.status} http=${of.http_status} isQuiet />
      <span><a href=${to}>Last error</a>, <${Ago} at=${of.ended_at ?? of.started_at} />:${" "}
      ${visible(reasonOf(of) ?? of.status)}</span></p>
  `;
}

/** The URL with a copy button; empty without a URL. */
export function Address({ id }: { id: string }) {
  useFetched(async (signal) => {
    functionUrl(id).value = await fetchUrl(id, signal);
    return null;
  }, [id]);
  const url = functionUrl(id).value;
  return url && html`
    <p class="address">
      <${Copy} text=${addressOf(url)} label="URL" />
    </p>
  `;
}
