// What a function is made of. Saving makes a new version of it.
import { useSignal } from "@preact/signals";
import { call, get } from "../../api.ts";
import { changesOf } from "../../fields.ts";
import { html } from "../../html.ts";
import { Code } from "../../parts/code.ts";
import { Described } from "../../parts/described.ts";
import { useFetched } from "../../parts/fetched.ts";
import { CTRL_ENTER } from "../../parts/keys.ts";
import { fieldIn, Form, WrongOf } from "../../parts/failing.ts";
import { toast, toastError } from "../../parts/toast.ts";
import { Variables } from "../../parts/variables.ts";
import { may } from "../../scope.ts";
import { show } from "../../current.ts";
import type { Variable } from "../../trying.ts";
import type { Function, FunctionChanges, Runtime, RuntimeList } from "../../wire.ts";
import { Files } from "./files.ts";

const SHAPE = "FunctionChanges";
type Named = Omit<Required<FunctionChanges>, "environment" | "min_instances" | "max_instances">;
type Draft = Named & { variables: readonly Variable[] };

function draftOf(one: Function): Draft {
  const { name, description, runtime, handler, environment } = one;
  const { memory_limit_mb, cpu_limit_percent, timeout_seconds } = one;
  const { cleanup_on_exit, working_directory } = one;
  return {
    ...{ name, description, runtime, handler, variables: Object.entries(environment) },
    ...{ memory_limit_mb, cpu_limit_percent, timeout_seconds },
    ...{ cleanup_on_exit, working_directory },
  };
}

/** What the API is asked to change; empty where nothing is. Rows without a name are left out. */
function asked(before: Draft, now: Draft): FunctionChanges {
  const shape = ({ variables, ...rest }: Draft) => ({
    ...rest,
    environment: Object.fromEntries(variables.filter(([name]) => name !== "")),
  });
  return changesOf(shape(before), shape(now)) as FunctionChanges;
}

/** Takes back an update: the version before serves again, and its undo is the same once more. */
export async function rollback(one: Function, version: number): Promise<void> {
  const path = `api/functions/${one.id}`;
  const now = await call<Function>("POST", `${path}/rollback`, { body: { version } });
  show(now);
  // A rollback that cannot start leaves the version that served.
  if (now.current_version !== version) throw new Error(now.error_message ?? `Still v${version}.`);
  toast(`Version ${version} of ${now.name} serves.`, {
    undo: () => rollback(now, one.current_version),
  });
}

/** Deploys what is not active yet, and tells which version it is now. */
export async function settle(
  before: Function,
  updated: Function,
  isDeployed: boolean,
): Promise<void> {
  let now = updated;
  if (isDeployed && now.state !== "active") {
    now = await call<Function>("POST", `api/functions/${now.id}/deploy`);
  }
  show(now);
  if (now.error_message) throw new Error(now.error_message);
  toast(`Version ${now.current_version} of ${now.name} is ${isDeployed ? now.state : "saved"}.`, {
    undo: () => rollback(now, before.current_version),
  });
}

function Limits({ draft, change, isReadOnly }: {
  draft: Draft;
  change: (part: Partial<Draft>) => void;
  isReadOnly: boolean;
}) {
  const field = (name: keyof Named, label: string, more = {}) =>
    html`
      <${Described} shape=${SHAPE} name=${name} label=${label} value=${draft[name]}
        isReadOnly=${isReadOnly} onValue=${(value: unknown) =>
          change({ [name]: value })} ...${more} />
    `;
  return html`<div class="settings">${field("memory_limit_mb", "Memory")}${
    field("cpu_limit_percent", "Processor")
  }${field("timeout_seconds", "Timeout")}${
    field("working_directory", "Working directory", { isMono: true })
  }${field("cleanup_on_exit", "Clean up after each call")}</div>`;
}

function What({ draft, change, isReadOnly, runtimes }: {
  draft: Draft;
  change: (part: Partial<Draft>) => void;
  isReadOnly: boolean;
  runtimes: readonly Runtime[];
}) {
  const names = runtimes.map((one) => one.name);
  const kind = runtimes.find((one) => one.name === draft.runtime)?.kind ?? "shell";
  // A runtime that was removed is still what the function has.
  const options = names.includes(draft.runtime) ? names : [draft.runtime, ...names];
  return html`
    <div class="inside">
      <div class="settings">
      <${Described} shape=${SHAPE} name="name" label="Name" value=${draft
        .name} isReadOnly=${isReadOnly}
        onValue=${(name: string) => change({ name })} />
      <${Described} shape=${SHAPE} name="description" label="Description" value=${draft.description}
        isReadOnly=${isReadOnly} onValue=${(description: string | null) =>
          change({ description })} />
      <${Described} shape=${SHAPE} name="runtime" label="Runtime" value=${draft.runtime}
        isReadOnly=${isReadOnly} options=${options} onValue=${(runtime: string) =>
          change({ runtime })} />
      ${kind !== "shell" && html`
        <${Described} shape=${SHAPE} name="handler" label="Handler"
          value=${draft.handler} isReadOnly=${isReadOnly} isMono
          onValue=${(handler: string) => change({ handler })} />
      `}</div>
      ${kind === "shell" && html`<${WrongOf} path="handler" label="Handler" />`}
    </div>
    ${kind === "shell" && html`
      <div class="code-head small muted">Handler: a shell script</div>
      <${Code} text=${draft.handler} language=${kind} label="Handler" key=${isReadOnly}
        ...${isReadOnly ? {} : { onText: (handler: string) => change({ handler }) }} />
    `}
  `;
}

export function Settings({ one }: { one: Function }) {
  const before = useSignal(draftOf(one));
  const draft = useSignal(before.peek());
  const base = useSignal(one.current_version);
  const problem = useSignal<Error | null>(null);
  const isBusy = useSignal(false);
  const { value } = useFetched((signal) => get<RuntimeList>("api/runtimes", {}, signal), []);
  const isReadOnly = !may("write");
  const runtimes = value.value?.runtimes ?? [];
  const runtime = runtimes.find((each) => each.name === one.runtime);
  const changes = asked(before.value, draft.value);
  const isChanged = Object.keys(changes).length > 0;
  const renew = (now: Function) => {
    before.value = draft.value = draftOf(now);
    base.value = now.current_version;
  };
  // Somebody else's version is taken over unless there is something here that it would undo.
  if (base.value !== one.current_version && !isChanged && !isBusy.value) renew(one);
  const change = (part: Partial<Draft>) => {
    draft.value = { ...draft.peek(), ...part };
  };
  async function save(isDeployed: boolean) {
    if (isBusy.peek() || !isChanged && one.state === "active") return;
    isBusy.value = true;
    problem.value = null;
    try {
      const path = `api/functions/${one.id}`;
      const now = isChanged ? await call<Function>("PUT", path, { body: changes }) : one;
      renew(now);
      await settle(one, now, isDeployed);
    } catch (error) {
      problem.value = error as Error;
      if (fieldIn(problem.value) === null) toastError(error);
    } finally {
      isBusy.value = false;
    }
  }
  return html`
    <form onSubmit=${(event: Event) => {
      event.preventDefault();
      save(true);
    }} onKeyDown=${(event: KeyboardEvent) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      (event.currentTarget as HTMLFormElement).requestSubmit();
    }}>
      ${!isReadOnly && html`
        <${Save} one=${one} isChanged=${isChanged} isBusy=${isBusy.value}
          base=${base.value} onSave=${() => save(false)} onDrop=${() => renew(one)} />
      `}
      <${Form} of=${problem.value}>
      <section class="card" aria-labelledby="code"><header><h2 id="code">Code</h2></header>
        <${What} draft=${draft
          .value} change=${change} isReadOnly=${isReadOnly} runtimes=${runtimes} />
        ${runtime && !runtime.built_in &&
          html`<${Files} one=${one} runtime=${runtime} isReadOnly=${isReadOnly} />`}</section>
      <section class="card after" aria-labelledby="variables"><header><h2 id="variables">Environment
        variables</h2></header><div class="inside"><${Variables} of=${draft.value.variables}
          label="Environment variables" ...${isReadOnly ? {} : {
            onChange: (variables: readonly Variable[]) => change({ variables }),
          }} />${isReadOnly && draft.value.variables.length === 0 &&
            html`<p class="muted">There are none.</p>`}<${WrongOf} path="environment"
            label="Environment variables" /></div></section>
      <section class="card after" aria-labelledby="limits"><header><h2 id="limits">Limits</h2></header>
        <div class="inside"><${Limits} draft=${draft.value} change=${change}
          isReadOnly=${isReadOnly} /></div></section>
      </${Form}>
    </form>
  `;
}

function Save({ one, isChanged, isBusy, base, onSave, onDrop }: {
  one: Function;
  isChanged: boolean;
  isBusy: boolean;
  base: number;
  onSave: () => void;
  onDrop: () => void;
}) {
  const isActive = one.state === "active";
  const said = base !== one.current_version
    ? `Version ${one.current_version} was made meanwhile. Saving changes only what you changed.`
    : isChanged
    ? "Not saved yet."
    : isActive
    ? "A change makes a new version. Calls go to it once its instances are ready."
    : "A change makes a new version.";
  return html`<div class="bar saving"><span class="muted" role="status">${said}</span
    ><div class="actions">${
    isChanged &&
    html`<button class="button" type="button" onClick=${onDrop}>Discard</button>`
  }${
    isChanged && !isActive &&
    html`<button class="button" type="button" onClick=${onSave}>Save</button>`
  }<button class="button primary" type="submit" aria-disabled=${isBusy || !isChanged && isActive}>${
    isBusy ? "Working …" : "Save and deploy"
  } <kbd class="wide" aria-hidden="true">${CTRL_ENTER}</kbd></button></div></div>`;
}
