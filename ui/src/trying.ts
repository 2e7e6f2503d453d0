// Manual invocations: the input last sent to each function, and its outcome. They are kept while
// the tab is open, even if the user visits other pages, and dropped when the user signs out.
import { effect, type Signal, signal } from "@preact/signals";
import { call, get, needsKey, Refused, send } from "./api.ts";
import { Written } from "./parts/invocation/call.ts";
import { eventsOf } from "./stream.ts";
import type { ErrorBody, Invocation, Timeline } from "./wire.ts";

/** stream: output as it is written; sync: the whole response; async: queued. */
export type Mode = "stream" | "sync" | "async";
export type Variable = readonly [name: string, value: string];

/** One invocation and its progress. */
export interface Run {
  mode: Mode;
  /** Milliseconds since 1970. */
  began: number;
  isOver: boolean;
  id: string | null;
  payload: string;
  target: string;
  stdout: string;
  stderr: string;
  record: Invocation | null;
  /** The reason for a cold start. */
  timeline: Timeline | null;
  problem: Error | null;
}

export interface Trial {
  payload: Signal<string>;
  variables: Signal<readonly Variable[]>;
  mode: Signal<Mode>;
  /** The version or alias, as a query such as alias=live; empty: the default. */
  target: Signal<string>;
  run: Signal<Run | null>;
  /** Whether the user wanted to repeat an invocation whose payload this tab does not know. */
  isUnknown: Signal<boolean>;
}

const DRAWN_EVERY_MS = 100;
const KEPT = "quiltfn.payloads.";
const SENT = `${KEPT}by-call`;
const KEPT_MOST = 20;
const KEPT_MOST_CHARACTERS = 200_000;

const trials = new Map<string, Trial>();

/** The input and outcome of a function, by the function's id. */
export function trialOf(id: string): Trial {
  const known = trials.get(id);
  if (known) return known;
  const made: Trial = {
    payload: signal(history(id)[0] ?? ""),
    variables: signal([]),
    mode: signal("stream"),
    target: signal(""),
    run: signal(null),
    isUnknown: signal(false),
  };
  trials.set(id, made);
  return made;
}

/** The note below a payload that looks like JSON but is invalid; empty: none. */
export function aboutPayload(payload: string): string {
  if (!/^\s*[{[]/.test(payload)) return "";
  try {
    JSON.parse(payload);
    return "";
  } catch {
    return "This is no valid JSON: it is sent as text.";
  }
}

/** The payloads sent to a function from this tab, newest first. */
export function history(id: string): string[] {
  const kept: unknown = JSON.parse(sessionStorage.getItem(KEPT + id) ?? "[]");
  return Array.isArray(kept) ? kept.filter((text) => typeof text === "string") : [];
}

/** `known` with one more payload in front, without duplicates and up to the limit. */
export function withPayload(known: readonly string[], payload: string): string[] {
  const all = [payload, ...known.filter((other) => other !== payload)].slice(0, KEPT_MOST);
  let size = 0;
  return all.filter((text) => (size += text.length) <= KEPT_MOST_CHARACTERS);
}

/** The newest payloads by the id of their invocation; they survive a reload. */
function sent(): Map<string, string> {
  const kept: unknown = JSON.parse(sessionStorage.getItem(SENT) ?? "[]");
  return new Map(Array.isArray(kept) ? kept : []);
}

function remember(call: string, payload: string): void {
  const all = sent();
  all.delete(call);
  all.set(call, payload);
  let size = 0;
  for (const [id, text] of [...all].reverse()) {
    size += id.length + text.length;
    if (size > KEPT_MOST_CHARACTERS) all.delete(id);
  }
  store(SENT, [...all]);
}

/** Fills the invoke panel with the input of an invocation, if this tab sent it. Removes the
 * response to another invocation.
 */
export function prepare(id: string, call: string): void {
  const trial = trialOf(id), known = sent().get(call);
  trial.payload.value = known ?? "";
  trial.isUnknown.value = known === undefined;
  if (trial.run.peek()?.isOver) trial.run.value = null;
}

/** Stores an input that another page sent to a function, for the invoke panel. */
export function noteSent(id: string, call: string, payload: string): void {
  keep(id, payload);
  remember(call, payload);
  trialOf(id).payload.value = payload;
  trialOf(id).isUnknown.value = false;
}

function keep(id: string, payload: string): void {
  if (payload !== "") store(KEPT + id, withPayload(history(id), payload));
}

function store(key: string, value: unknown): void {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch {
    // The storage is full: its content stays.
  }
}

effect(() => {
  if (!needsKey.value) return;
  trials.clear();
  const all = Object.keys(globalThis.sessionStorage ?? {});
  for (const key of all) if (key.startsWith(KEPT)) sessionStorage.removeItem(key);
});

const leaving = new WeakMap<Trial, AbortController>();

/** Invokes the function, unless an invocation is in progress. */
export async function start(id: string, trial: Trial): Promise<void> {
  if (trial.run.peek()?.isOver === false) return;
  trial.isUnknown.value = false;
  const mode = trial.mode.peek();
  const abort = new AbortController();
  leaving.set(trial, abort);
  trial.run.value = {
    mode,
    began: Date.now(),
    isOver: false,
    id: null,
    payload: trial.payload.peek(),
    target: trial.target.peek(),
    stdout: "",
    stderr: "",
    record: null,
    timeline: null,
    problem: null,
  };
  keep(id, trial.payload.peek());
  try {
    await RUNNERS[mode](id, trial, abort.signal);
  } catch (error) {
    const isOurs = abort.signal.aborted;
    change(trial, { problem: isOurs ? new Error("The call was cancelled.") : error as Error });
  }
  const record = trial.run.peek()?.record;
  change(trial, { isOver: true });
  if (!record) return;
  const path = `api/functions/${id}/invocations/${record.invocation_id}/timeline`;
  // If this fails, the response is shown without the reason for a cold start.
  change(trial, { timeline: await get<Timeline>(path).catch(() => null) });
}

/** Cancels the running invocation. If it has a record, its status is then `cancelled`. */
export async function cancel(id: string, trial: Trial): Promise<void> {
  const run = trial.run.peek();
  if (!run || run.isOver) return;
  if (run.id === null) return leaving.get(trial)?.abort();
  try {
    await call("POST", `api/functions/${id}/invocations/${run.id}/cancel`);
  } catch (error) {
    // the invocation has just ended
    if (!(error instanceof Refused && error.status === 409)) throw error;
  }
}

function change(trial: Trial, part: Partial<Run>): void {
  const run = trial.run.peek();
  if (!run) return;
  if (part.id) remember(part.id, run.payload);
  trial.run.value = { ...run, ...part };
}

function ended(trial: Trial, record: Invocation): void {
  const { invocation_id: id, stdout, stderr } = record;
  change(trial, { id, record, stdout, stderr });
}

/** The body of the request. */
export function bodyOf(trial: Trial) {
  const environment = Object.fromEntries(trial.variables.value.filter(([name]) => name !== ""));
  return {
    payload: trial.payload.value || null,
    ...(Object.keys(environment).length > 0 && { environment }),
  };
}

/** The query of the request. */
export function queryOf(trial: Trial): Record<string, string> {
  return Object.fromEntries(new URLSearchParams(trial.target.value));
}

// If the user closes the page, the invocation is cancelled.
const WITH_US = { "X-On-Disconnect": "cancel" };

const RUNNERS: Record<Mode, (id: string, trial: Trial, signal: AbortSignal) => Promise<void>> = {
  async sync(id, trial, signal) {
    const body = bodyOf(trial);
    const options = { body, signal, headers: WITH_US, query: queryOf(trial) };
    ended(trial, await call<Invocation>("POST", `api/functions/${id}/invoke`, options));
  },
  async stream(id, trial, signal) {
    const headers = { ...WITH_US, Accept: "text/event-stream" };
    const options = { body: bodyOf(trial), signal, headers, query: queryOf(trial) };
    const response = await send("POST", `api/functions/${id}/invoke`, options);
    await follow(response, trial);
  },
  async async(id, trial, signal) {
    const options = { body: bodyOf(trial), signal, query: { mode: "async", ...queryOf(trial) } };
    let record = await call<Invocation>("POST", `api/functions/${id}/invoke`, options);
    const path = `api/functions/${id}/invocations/${record.invocation_id}`;
    change(trial, { id: record.invocation_id, record });
    while (record.ended_at === null) {
      record = await get<Invocation>(path, { wait_seconds: 20 }, signal);
      change(trial, { record });
    }
    ended(trial, record);
  },
};

async function follow(response: Response, trial: Trial): Promise<void> {
  const streams = { stdout: new Written(), stderr: new Written() };
  let drawing: ReturnType<typeof setTimeout> | undefined;
  const draw = () => {
    drawing = undefined;
    change(trial, { stdout: streams.stdout.text, stderr: streams.stderr.text });
  };
  try {
    for await (const { event, data } of eventsOf(response)) {
      const message = JSON.parse(data);
      if (event === "started") change(trial, { id: message.invocation_id });
      if (event === "stdout" || event === "stderr") {
        streams[event].add(message);
        drawing ??= setTimeout(draw, DRAWN_EVERY_MS);
      }
      if (event === "error") throw new Refused(503, message as ErrorBody);
      if (event === "end") return ended(trial, message as Invocation);
    }
    throw new Refused(0, { error: "The connection was lost: the call has ended with it." });
  } finally {
    clearTimeout(drawing);
  }
}
