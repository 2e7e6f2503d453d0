// Why an invocation did not succeed, with the last lines of its standard error, and the next step.
import { get } from "../../api.ts";
import { html } from "../../html.ts";
import type { AsyncPolicy, DeadLetterPage, Invocation, Timeline } from "../../wire.ts";
import { lastLines, nextOf, whyOf } from "../../why.ts";
import { visible } from "../text/ansi.ts";
import { useFetched } from "../lists/fetched.ts";
import { exact } from "../text/format.ts";
import { isHttpError } from "./status.ts";

const PAGE = 100;
const WAITED_FOR = ["sync", "url"];

interface Around {
  most: number;
  isDead: boolean;
}

/** The consequence of a failure by the function's policy. Searches only the newest dead letters. */
async function ask(of: Invocation, times: Timeline, signal: AbortSignal): Promise<Around> {
  const path = `api/functions/${of.function_id}`;
  const isAccepted = !WAITED_FOR.includes(times.source ?? "sync");
  const [policy, dead] = await Promise.all([
    isAccepted ? get<AsyncPolicy>(`${path}/async-policy`, {}, signal) : null,
    isAccepted ? get<DeadLetterPage>(`${path}/dead-letters`, { limit: PAGE }, signal) : null,
  ]);
  return {
    most: policy?.max_attempts ?? 1,
    isDead: dead?.dead_letters.some((letter) => letter.invocation_id === of.invocation_id) ?? false,
  };
}

export function Why({ of, times }: { of: Invocation; times: Timeline }) {
  const attempts = times.attempts ?? [];
  const { value } = useFetched(
    (signal) => ask(of, times, signal),
    [of.invocation_id, of.status, attempts.length],
  );
  const around = value.value;
  const said = whyOf(of, times.end_cause ?? null);
  const next = around && nextOf({
    ...{ status: of.status, source: times.source ?? null, attempts },
    ...{ most: around.most, isDead: around.isDead },
    due: times.due_at == null ? null : exact(times.due_at),
  });
  const last = of.status === "failed" || isHttpError(of) ? lastLines(of.stderr) : "";
  if (said === null && !next) return null;
  return html`<section class="notice why" aria-label="Why it ended so">${
    said && html`<p>${visible(said)}</p>`
  }${next && html`<p>${next}</p>`}${
    last && html`
      <p class="muted small">The last lines of its error output:</p>
      <pre class="mono small">${visible(last)}</pre>
    `
  }</section>`;
}
