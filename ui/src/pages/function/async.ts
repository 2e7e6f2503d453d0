// Asynchronous invocations of a function: policy, queue, dead letters, and deliveries.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, get } from "../../api.ts";
import { html } from "../../html.ts";
import { Described } from "../../parts/controls/described.ts";
import { useFetched, Waiting } from "../../parts/lists/fetched.ts";
import { Form } from "../../parts/controls/failing.ts";
import { Notice } from "../../parts/lists/notice.ts";
import { toast } from "../../parts/controls/toast.ts";
import { may } from "../../scope.ts";
import { onEvent } from "../../store.ts";
import type {
  AsyncPolicy,
  Backoff,
  Destination,
  Function,
  FunctionQueue,
  RecordPolicy,
} from "../../wire.ts";
import { DeadLetters } from "./dead_letters.ts";
import { Deliveries } from "./deliveries.ts";

const SHAPE = "NewAsyncPolicy";
const FIELDS: [keyof AsyncPolicy, string][] = [
  ["max_attempts", "Attempts"],
  ["max_age_seconds", "Age"],
  ["max_queued", "Queued at most"],
  ["max_concurrency", "At a time"],
  ["retry_on", "Tried again after"],
];
const WAITS: [keyof Backoff, string][] = [
  ["first", "First wait"],
  ["factor", "Factor"],
  ["most", "Longest wait"],
  ["jitter", "Jitter"],
];

function Queue({ fn, queue }: { fn: Function; queue: FunctionQueue }) {
  const all: [string, string | number][] = [
    ["Waiting", queue.queued],
    ["Due later", queue.delayed],
    ["Running", queue.running],
    ["Dead letters", queue.dead_letters],
  ];
  const age = queue.oldest_age_seconds;
  return html`
    <section class="card" aria-labelledby="queue">
      <header><h2 id="queue">Queue</h2
        ><span class="push small muted">${age === null
          ? "Nothing is due."
          : `The oldest has been due for ${age} s.${
            fn.state === "paused" ? " It waits for Resume." : ""
          }`}</span></header>
      <div class="figures num">${all.map(([name, value]) =>
        html`
          <dl key=${name}>
            <dt>${name}</dt>
            <dd>${value}</dd>
          </dl>
        `
      )}</div>
    </section>
  `;
}

const KINDS = ["nobody", "a function", "a URL"];

/** The destination of outcomes: none, a function, or a URL with its secret. */
function DestinationField({ name, label, of, isReadOnly, onValue }: {
  name: string;
  label: string;
  of: Destination | null;
  isReadOnly: boolean;
  onValue: (to: Destination | null) => void;
}) {
  const kind = of === null ? 0 : of.url != null ? 2 : 1;
  const field = (which: keyof Destination, said: string) =>
    html`
      <${Described} shape="NewDestination" within=${name} name=${which} label=${said}
        value=${of?.[which] ?? null}
        isReadOnly=${isReadOnly} isMono onValue=${(value: string | null) =>
          onValue({ ...of, [which]: value ?? "" })} />
    `;
  return html`<fieldset class="told"><legend>${label}</legend><${Described} shape=${SHAPE} name=${name}
    label="Tell" value=${KINDS[kind]} options=${KINDS} isReadOnly=${isReadOnly} onValue=${(
    chosen: string,
  ) =>
    onValue(
      [null, { function: "" }, { url: "", secret: null }][KINDS.indexOf(chosen)] ?? null,
    )} />${kind === 1 && field("function", "Function")}${
    kind === 2 && html`${field("url", "URL")}${field("secret", "Secret")}`
  }</fieldset>`;
}

function Policy({ fn, policy, again }: {
  fn: Function;
  policy: AsyncPolicy;
  again: () => Promise<void>;
}) {
  const draft = useSignal<AsyncPolicy | null>(null);
  const problem = useSignal<Error | null>(null);
  const isReadOnly = !may("write");
  const shown = draft.value ?? policy;
  const change = (part: Partial<AsyncPolicy>) => {
    draft.value = { ...shown, ...part };
  };
  const path = `api/functions/${fn.id}/async-policy`;
  async function put(body: AsyncPolicy | null, said: string) {
    problem.value = null;
    try {
      await (body ? call("PUT", path, { body }) : call("DELETE", path));
      await again();
      draft.value = null;
      toast(said, { undo: () => put(policy, "The policy is as it was.") });
    } catch (error) {
      problem.value = error as Error;
    }
  }
  return html`
    <form class="card after" aria-labelledby="policy" onSubmit=${(event: Event) => {
      event.preventDefault();
      if (draft.value) put(draft.value, "The policy was saved.");
    }}>
      <header><h2 id="policy">How accepted work is run</h2>${!isReadOnly &&
        html`<div class="actions"><button class="button" type="button"
      onClick=${() => put(null, "The policy is the default.")}>Defaults</button><button
      class="button primary" type="submit" aria-disabled=${
          draft.value === null
        }>Save</button></div>`}</header>
      <div class="inside">
        <${Form} of=${problem.value}>
          <div class="settings">${FIELDS.map(([name, label]) =>
            html`
              <${Described} shape=${SHAPE} name=${name} label=${label} value=${shown[
                name
              ]} key=${name}
                isReadOnly=${isReadOnly} onValue=${(value: unknown) => change({ [name]: value })} />
            `
          )}</div>
          <div class="settings">${WAITS.map(([name, label]) =>
            html`
              <${Described} shape="Backoff" within="backoff_seconds" name=${name} label=${label}
                key=${name}
                value=${shown.backoff_seconds[name] ?? null} isReadOnly=${isReadOnly} onValue=${(
                  value: number,
                ) => change({ backoff_seconds: { ...shown.backoff_seconds, [name]: value } })} />
            `
          )}</div>
          <div class="settings">${([["on_success", "After a success"], [
            "on_failure",
            "After it was given up",
          ]] as const).map((
            [name, label],
          ) =>
            html`
              <${DestinationField} name=${name} label=${label} of=${shown[name]} key=${name}
                isReadOnly=${isReadOnly}
                onValue=${(to: Destination | null) => change({ [name]: to })} />
            `
          )}</div>
          </${Form}>
          </div>
          </form>
  `;
}

function Records({ fn }: { fn: Function }) {
  const path = `api/functions/${fn.id}/record-policy`;
  const { value, problem, again } = useFetched(
    (signal) => get<RecordPolicy>(path, {}, signal),
    [fn.id],
  );
  const failed = useSignal<Error | null>(null);
  const kept = value.value?.keep_input;
  async function keep(keep_input: string) {
    failed.value = null;
    try {
      await call("PUT", path, { body: { keep_input } });
      await again();
      toast("What is kept was changed.", { undo: () => keep(kept ?? "async") });
    } catch (error) {
      failed.value = error as Error;
    }
  }
  const error = failed.value ?? problem.value;
  return html`
    <section class="card after" aria-labelledby="records">
      <header>
        <h2 id="records"
        >What is kept of calls</h2>
      </header>
      <div class="inside">${error && html`<${Notice} of=${error} />`}${!kept
        ? html`<${Waiting} />`
        : html`
          <div class="settings">
            <${Described} shape="RecordPolicy" name="keep_input" label="Inputs" value=${kept}
              isReadOnly=${!may("write")} onValue=${keep} />
          </div>
        `}</div>
    </section>
  `;
}

export function Async({ fn }: { fn: Function }) {
  const queue = useFetched(
    (signal) => get<FunctionQueue>(`api/functions/${fn.id}/queue`, {}, signal),
    [fn.id],
  );
  const policy = useFetched(
    (signal) => get<AsyncPolicy>(`api/functions/${fn.id}/async-policy`, {}, signal),
    [fn.id],
  );
  const dead = queue.value.value?.dead_letters ?? 0;
  useEffect(() =>
    onEvent((event) => {
      const isOurs = event.function_id === fn.id;
      if (isOurs && /^(queue|invocation\.ended)$/.test(event.type)) queue.again();
    }), [fn.id]);
  const problem = queue.problem.value ?? policy.problem.value;
  return html`
    ${problem && html`<${Notice} of=${problem} onRetry=${() => {
      queue.again();
      policy.again();
    }} />`}
    ${queue.value.value && html`<${Queue} fn=${fn} queue=${queue.value.value} />`}
    <${DeadLetters} fn=${fn} count=${dead} again=${queue.again} />
    ${policy.value.value && html`
      <${Policy} fn=${fn} policy=${policy.value.value}
        again=${policy.again} />
    `}
    <${Deliveries} fn=${fn} />
    <${Records} fn=${fn} />
  `;
}
