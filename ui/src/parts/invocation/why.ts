// Why a call did not succeed, with the last lines of its standard error, and what comes next.
import { get, pages } from "../../api.ts";
import { html } from "../../html.ts";
import type {
  AsyncPolicy,
  DeadLetterPage,
  Function,
  Invocation,
  Timeline,
  VersionPage,
} from "../../wire.ts";
import { isHttpError, lastLines, type Limits, nextOf, whyOf } from "../../why.ts";
import { visible } from "../text/ansi.ts";
import { useFetched } from "../lists/fetched.ts";
import { exact } from "../text/format.ts";

const PAGE = 100;
const WAITED_FOR = ["sync", "url"];

interface Around {
  limits: Limits | null;
  most: number;
  isDead: boolean;
}

/** What the function says of the call: the limits of the version that ran, and what its policy does
 * with a failure. Of dead letters and versions the newest are looked at.
 */
async function ask(of: Invocation, times: Timeline, signal: AbortSignal): Promise<Around> {
  const path = `api/functions/${of.function_id}`;
  const isAccepted = !WAITED_FOR.includes(times.source ?? "sync");
  const [found, policy, dead] = await Promise.all([
    limitsOf(path, times.version ?? null, signal),
    isAccepted ? get<AsyncPolicy>(`${path}/async-policy`, {}, signal) : null,
    isAccepted ? get<DeadLetterPage>(`${path}/dead-letters`, { limit: PAGE }, signal) : null,
  ]);
  return {
    limits: found,
    most: policy?.max_attempts ?? 1,
    isDead: dead?.dead_letters.some((one) => one.invocation_id === of.invocation_id) ?? false,
  };
}

async function limitsOf(
  path: string,
  version: number | null,
  signal: AbortSignal,
): Promise<Limits | null> {
  const now = await get<Function>(path, {}, signal);
  if (version === null || now.current_version === version) return version === null ? null : now;
  const newest = pages<VersionPage>(`${path}/versions`, { limit: PAGE }, signal);
  for await (const page of newest) {
    return page.versions.find((one) => one.version === version) ?? null;
  }
  return null;
}

export function Why({ of, times }: { of: Invocation; times: Timeline }) {
  const attempts = times.attempts ?? [];
  const { value } = useFetched(
    (signal) => ask(of, times, signal),
    [of.invocation_id, of.status, attempts.length],
  );
  const around = value.value;
  const said = whyOf(of, around?.limits ?? null);
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
