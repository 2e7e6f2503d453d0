// The code and settings of a function. Saving creates a new version.
import { batch, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { elsewhereSaid } from "../../aliases.ts";
import { get } from "../../api.ts";
import { FunctionFailed, show, tell } from "../../current.ts";
import { close, type Draft, draftOf, editingOf, type Named } from "../../editing.ts";
import { html } from "../../html.ts";
import { Code } from "../../parts/controls/code.ts";
import { Described } from "../../parts/controls/described.ts";
import { useFetched, Waiting } from "../../parts/lists/fetched.ts";
import { CTRL_ENTER, submits } from "../../parts/text/keys.ts";
import { fieldIn, Form, WrongOf } from "../../parts/controls/failing.ts";
import { Variables } from "../../parts/controls/variables.ts";
import { aboutFiles, hasOtherFiles, othersWith, settle, standingOf, update } from "../../saving.ts";
import { may } from "../../scope.ts";
import type { Variable } from "../../trying.ts";
import type { Function, Runtime, RuntimeList } from "../../wire.ts";
import { type Editing, Files } from "./files.ts";

const SHAPE = "FunctionChanges";

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

/** The code: a script, or the files of the runtime with a handler. */
function Source({ fn, draft, change, editing, isReadOnly, runtimes }: {
  fn: Function;
  draft: Draft;
  change: (part: Partial<Draft>) => void;
  editing: Editing;
  isReadOnly: boolean;
  /** null until they are loaded. */
  runtimes: readonly Runtime[] | null;
}) {
  if (runtimes === null) return html`<${Waiting} />`;
  const names = runtimes.map((each) => each.name);
  const chosen = runtimes.find((each) => each.name === draft.runtime);
  const isScript = (chosen?.kind ?? "shell") === "shell";
  // A removed runtime stays in the list while the function uses it.
  const options = names.includes(draft.runtime) ? names : [draft.runtime, ...names];
  return html`
    ${isScript && html`
      <${Code} text=${draft.handler} language="shell" label="Handler" key=${isReadOnly}
        ...${isReadOnly ? {} : { onText: (handler: string) => change({ handler }) }} />
      <${WrongOf} path="handler" label="Handler" />
    `}
    ${chosen && !chosen.built_in && (draft.runtime === fn.runtime
      ? html`
        <${Files} fn=${fn} runtime=${chosen} isReadOnly=${isReadOnly}
          ...${editing} />
      `
      : html`<p class="inside muted">The new version gets the files of the runtime ${draft.runtime}.</p>`)}
    <div class="inside">
      <div class="settings">
      <${Described} shape=${SHAPE} name="runtime" label="Runtime" value=${draft.runtime}
        isReadOnly=${isReadOnly} options=${options} onValue=${(runtime: string) =>
          change({ runtime })} />
      ${!isScript && html`
        <${Described} shape=${SHAPE} name="handler" label="Handler"
          value=${draft.handler} isReadOnly=${isReadOnly} isMono
          onValue=${(handler: string) => change({ handler })} />
      `}</div>
    </div>
  `;
}

function About({ draft, change, isReadOnly }: {
  draft: Draft;
  change: (part: Partial<Draft>) => void;
  isReadOnly: boolean;
}) {
  return html`
    <div class="settings">
      <${Described} shape=${SHAPE} name="name" label="Name" value=${draft
        .name} isReadOnly=${isReadOnly}
        onValue=${(name: string) => change({ name })} />
      <${Described} shape=${SHAPE} name="description" label="Description" value=${draft.description}
        isReadOnly=${isReadOnly} onValue=${(description: string | null) =>
          change({ description })} />
    </div>
  `;
}

export function Settings({ fn }: { fn: Function }) {
  const { before, draft, edits, base, ...form } = editingOf(fn);
  useEffect(() => () => close(fn.id), [fn.id]);
  const problem = useSignal<Error | null>(null);
  const isBusy = useSignal(false);
  /** The version that was created from the form's content and could not start. */
  const unserved = useSignal<number | null>(null);
  const isReadOnly = !may("write");
  const { value } = useFetched((signal) => get<RuntimeList>("api/runtimes", {}, signal), []);
  const standing = useFetched(
    (signal) => isReadOnly ? Promise.resolve(null) : standingOf(fn, signal),
    [fn.id, fn.current_version, fn.updated_at],
  ).value.value;
  const changes = form.changes.value, isChanged = form.isChanged.value;
  const renew = (now: Function) => {
    before.value = draft.value = draftOf(now);
    edits.value = new Map();
    unserved.value = null;
    base.value = now.current_version;
  };
  // Another user's version replaces the form's content, unless the form has unsaved changes.
  if (base.value !== fn.current_version && !isChanged && !isBusy.value) renew(fn);
  const change = (part: Partial<Draft>) => {
    draft.value = { ...draft.peek(), ...part };
    unserved.value = null;
  };
  const edit = (path: string, text: string | null) => {
    const next = new Map(edits.peek());
    if (text === null) next.delete(path);
    else next.set(path, text);
    edits.value = next;
    unserved.value = null;
  };
  async function save(isDeployed: boolean) {
    if (isBusy.peek() || !isChanged && fn.state === "active") return;
    isBusy.value = true;
    problem.value = null;
    try {
      const now = isChanged ? await update(fn, changes, edits.peek()) : fn;
      if (now === null) return;
      // Changes that cannot be deployed stay in the form, to be corrected.
      if (now.current_version !== fn.current_version) {
        batch(() => {
          show(now);
          renew(now);
        });
      } else unserved.value = now.failed_version ?? null;
      await settle(fn, now, isDeployed);
    } catch (error) {
      problem.value = error as Error;
      if (fieldIn(problem.value) === null) tell(fn.id, error);
    } finally {
      isBusy.value = false;
    }
  }
  // The function's page shows the reason of a failed deploy.
  const isAbove = problem.value instanceof FunctionFailed && fn.error_message != null;
  const isSameCode = edits.value.size === 0 && changes.runtime === undefined &&
    changes.handler === undefined &&
    !(standing?.runtime && hasOtherFiles(standing) && othersWith(fn, standing.runtime));
  const parts = { draft: draft.value, change, isReadOnly };
  const files = edits.value.size === 0 && changes.runtime === undefined && standing
    ? aboutFiles(fn, standing)
    : null;
  return html`
    <form novalidate onSubmit=${(event: Event) => {
      event.preventDefault();
      save(true);
    }} onKeyDown=${submits}>
      ${!isReadOnly && html`
        <${Save} fn=${fn} isChanged=${isChanged} isSameCode=${isSameCode} isBusy=${isBusy.value}
          files=${files}
          base=${base.value} unserved=${unserved.value} onSave=${() => save(false)} onDrop=${() =>
            renew(fn)} />
      `}
      <${Form} of=${isAbove ? null : problem.value}>
      <section class="card" aria-labelledby="code"><header><h2 id="code">Code</h2></header>
        <${Source} fn=${fn} ...${parts} editing=${{
          edits: edits.value,
          onEdit: edit,
          problem: problem.value,
        }} runtimes=${value.value?.runtimes ?? null} /></section>
      <section class="card after" aria-labelledby="variables"><header><h2 id="variables">Environment
        variables</h2></header><div class="inside"><${Variables} of=${draft.value.variables}
          label="Environment variables" ...${isReadOnly ? {} : {
            onChange: (variables: readonly Variable[]) => change({ variables }),
          }} />${isReadOnly && draft.value.variables.length === 0 &&
            html`<p class="muted">There are none.</p>`}<${WrongOf} path="environment"
            label="Environment variables" /></div></section>
      <section class="card after" aria-labelledby="limits"><header><h2 id="limits">Limits</h2></header>
        <div class="inside"><${Limits} ...${parts} /></div></section>
      <section class="card after" aria-labelledby="about"><header><h2 id="about">Name and
        description</h2></header><div class="inside"><${About} ...${parts} /></div></section>
      </${Form}>
    </form>
  `;
}

function Save({ fn, isChanged, isSameCode, isBusy, files, base, unserved, onSave, onDrop }: {
  fn: Function;
  isChanged: boolean;
  /** Whether saving leaves the code unchanged. */
  isSameCode: boolean;
  isBusy: boolean;
  /** The notice about the files. */
  files: ReturnType<typeof aboutFiles>;
  base: number;
  unserved: number | null;
  onSave: () => void;
  onDrop: () => void;
}) {
  const isActive = fn.state === "active", elsewhere = elsewhereSaid(fn);
  const said = isBusy
    ? "Saving …"
    : unserved !== null
    ? `Saved as version ${unserved}, which could not start. ` +
      (elsewhere ? `Calls run on ${elsewhere}.` : `Version ${fn.current_version} goes on serving.`)
    : base !== fn.current_version
    ? `Version ${fn.current_version} was made meanwhile. Saving changes only what you changed.`
    : isChanged
    ? elsewhere && isSameCode
      ? `Not saved yet. The code stays as it is, and so calls stay on ${elsewhere}.`
      : "Not saved yet."
    : isActive
    ? elsewhere
      ? `A change makes a new version. Calls run on ${elsewhere}, and stay there unless the code ` +
        "changes."
      : "A change makes a new version. Calls go to it once its instances are ready."
    : "A change makes a new version.";
  return html`<div class="bar saving"><span class="muted" role="status">${said}${
    files && !isBusy && [" ", html`<span title=${files.how}>${files.said}</span>`]
  }</span
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
