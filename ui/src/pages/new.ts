// A new function: from code to a first response on one page.
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { withoutCompiled } from "../compiled.ts";
import { html } from "../html.ts";
import {
  type Answered,
  type Draft,
  type Language,
  languageOf,
  LANGUAGES,
  mainFile,
  Making,
  nameOf,
  NameTaken,
  type Step,
  stepsOf,
} from "../making.ts";
import { fieldIn, Form, Unnamed, useFailure, Wrong, WrongOf } from "../parts/controls/failing.ts";
import { visible } from "../parts/text/ansi.ts";
import { Code } from "../parts/controls/code.ts";
import { bytes, duration } from "../parts/text/format.ts";
import { CTRL_ENTER, submits } from "../parts/text/keys.ts";
import { Output } from "../parts/invocation/output.ts";
import { refuseLong } from "../parts/controls/paste.ts";
import { Status } from "../parts/invocation/status.ts";
import { Steps } from "../parts/charts/steps.ts";
import type { File as ImageFile } from "../parts/resources/tar.ts";
import { reveal } from "../parts/controls/reveal.ts";
import { drafted, forgetDraft, isDrafted } from "../drafting.ts";
import { href, stand } from "../router.ts";
import { aboutPayload, noteSent } from "../trying.ts";
import { lineIn } from "../version_files.ts";
import { templateOf, TEMPLATES } from "../templates.ts";

interface Naming {
  draft: Draft;
  change: (part: Partial<Draft>) => void;
  taken: NameTaken | null;
  /** Whether the function exists: then it is renamed in its settings instead. */
  isMade: boolean;
}

const valueOf = (event: Event): string => (event.target as HTMLInputElement).value;

function Name({ draft, change, taken, isMade }: Naming) {
  const field = useRef<HTMLInputElement>(null);
  const said = useFailure("name", "Name", "name");
  useEffect(() => field.current?.focus(), [taken]);
  return html`
    <div class="field"><label for="name">Name</label>
      <input class="text" id="name" ref=${field} maxlength="64" placeholder="my-function"
        autocomplete="off" spellcheck=${false} value=${draft
          .name} readonly=${isMade} aria-describedby="name-about"
        aria-invalid=${taken || said ? true : null}
        onInput=${(event: Event) => change({ name: valueOf(event) })} />
      ${taken
        ? html`
          <small id="name-about" class="wrong"
            role="alert">${taken.message} <a href=${href([
              "functions",
              taken.id,
            ])}>Go to it</a></small>
        `
        : said
        ? html`<${Wrong} said=${said} id="name-about" />`
        : html`<small id="name-about" class="muted">${
          isMade
            ? "The function exists: rename it on its page, in Code and settings."
            : "letters, digits, dots, dashes, underscores"
        }</small>`}</div>
  `;
}

function Identity({ draft, change, ...naming }: Naming) {
  const template = templateOf(draft);
  function choose(event: Event) {
    const language = valueOf(event) as Language;
    const at = TEMPLATES[draft.language].findIndex((known) => known === template);
    const same = at < 0 ? undefined : TEMPLATES[language][at];
    change({ language, ...(same && { code: same.code, payload: same.payload }) });
  }
  function begin(event: Event) {
    const chosen = TEMPLATES[draft.language].find((known) => known.title === valueOf(event));
    if (chosen) change({ code: chosen.code, payload: chosen.payload });
  }
  return html`
    <div class="inside pair">
      <${Name} draft=${draft} change=${change} ...${naming} />
      <div class="field"><label for="language">Language</label><select class="text" id="language"
          value=${draft.language} onChange=${choose}>${Object.entries(LANGUAGES).map((
            [language, { title }],
          ) =>
            html`<option value=${language} key=${language} selected=${
              language === draft.language
            }>${title}</option>`
          )}</select></div>
      <div class="field"><label for="template">Begin with</label><select class="text" id="template"
          value=${template?.title ?? ""} onChange=${begin}>${!template &&
            html`<option value="" selected>Code of your own</option>`}${TEMPLATES[draft.language]
            .map(({ title }) =>
              html`<option value=${title} key=${title} selected=${
                title === template?.title
              }>${title}</option>`
            )}</select></div>
    </div>
  `;
}

function Files({ files, change }: {
  files: readonly ImageFile[];
  change: (files: readonly ImageFile[]) => void;
}) {
  if (files.length === 0) return null;
  return html`<ul class="files" aria-label="Further files">${
    files.map((file) =>
      html`
        <li
          key=${file.path}><span class="mono">${file
            .path}</span><span class="muted num small">${bytes(
              file.content.length,
            )}</span><button class="button icon" type="button" aria-label=${`Leave out ${file.path}`}
                onClick=${() => change(files.filter((other) => other !== file))}>✕</button></li>
      `
    )
  }</ul>`;
}

/** Adds dropped or chosen files: the first one with code goes into the editor. */
async function take(list: Iterable<File>, draft: Draft): Promise<Partial<Draft>> {
  const part: Partial<Draft> = {};
  const files = new Map(draft.files.map((file) => [file.path, file]));
  for (const file of list) {
    const content = new Uint8Array(await file.arrayBuffer());
    const language = languageOf(file.name);
    if (language && part.code === undefined) {
      Object.assign(part, { language, code: new TextDecoder().decode(content) });
      if (!draft.name) part.name = nameOf(file.name);
    } else files.set(file.name, { path: file.name, content });
  }
  return { ...part, files: withoutCompiled([...files.values()]) };
}

/** `isOld`: a newer invocation is running, whose response will replace this one in the same place,
 * so that nothing moves.
 */
function Answer({ of: { call: of, version }, isOld, name, id }: {
  of: Answered;
  isOld: boolean;
  name: string;
  id: string;
}) {
  return html`
    <section class="card after answer" aria-busy=${isOld}
      aria-labelledby="answer"><header class="wraps"><h2 id="answer">Answer</h2>
          <${Status} of=${of
            .status} /><span class="num muted small">version ${version}</span><span class="num muted small">${duration(
              of.duration_ms,
            )}</span>
          ${of.cold_start && html`<span class="cold">cold</span>`}
          <a class="push" href=${href(["functions", id])}>Go to ${name}</a></header>
        ${of.error_message && html`<p class="inside">${visible(of.error_message)}</p>`}
        ${of.stdout && html`<${Output} text=${of.stdout} label="Output" />`}
        ${of.stderr &&
          html`<${Output} text=${of.stderr} label="Log" isError=${of.status !== "success"} />`}
        ${!of.stdout && !of.stderr && html`<p class="empty">No output</p>`}</section>
  `;
}

const SAID: Record<Step, string> = {
  code: "Code",
  function: "Function",
  deploy: "Deploy",
  call: "Call",
};

/** The progress of the steps. */
function Progress({ draft, step, problem, answer, making }: {
  draft: Draft;
  step: Signal<Step | "done" | null>;
  problem: Error | null;
  answer: Answered | null;
  making: Making;
}) {
  const { functionId: id, name, serving } = making;
  const names = stepsOf(draft);
  const isFailed = answer !== null && answer.call.status !== "success";
  const at = isFailed
    ? names.indexOf("call")
    : step.value === null
    ? -1
    : step.value === "done"
    ? names.length
    : names.indexOf(step.value);
  return html`
    <${Steps} names=${names.map((each) => SAID[each])} at=${at} isBroken=${problem !== null ||
      isFailed} />
    <${Unnamed} />
    ${problem && id && html`
      <p>${serving === null
        ? "The function is there"
        : `Version ${serving} still answers calls`}, and
        the code can be mended here or on <a href=${href(["functions", id])}>the page of ${name}</a
        >.</p>
    `}
  `;
}

export default function New() {
  const draft = useSignal<Draft>(drafted.peek());
  const step = useSignal<Step | "done" | null>(null);
  const problem = useSignal<Error | null>(null);
  const answer = useSignal<Answered | null>(null);
  const isCalling = useSignal(false);
  const isOver = useSignal(false);
  const making = useRef(new Making());
  const result = useRef<HTMLDivElement>(null);
  const now = draft.value;
  const change = (part: Partial<Draft>) => {
    draft.value = { ...draft.peek(), ...part };
    if (making.current.functionId === null) drafted.value = draft.value;
  };
  const { functionId, name } = making.current;
  const isBusy = isCalling.value;
  const verb = making.current.isDeployed(now)
    ? "Call again"
    : functionId
    ? "Deploy and call again"
    : "Create, deploy and call";
  const taken = problem.value instanceof NameTaken ? problem.value : null;
  async function go(event?: Event) {
    event?.preventDefault();
    if (isBusy) return;
    problem.value = null;
    step.value = null;
    isCalling.value = true;
    try {
      const sent = draft.peek();
      const found = await making.current.run(sent, (reached) => {
        step.value = reached;
      });
      noteSent(found.call.function_id, found.call.invocation_id, sent.payload);
      answer.value = found;
      step.value = "done";
    } catch (error) {
      problem.value = error as Error;
      answer.value = null;
    } finally {
      isCalling.value = false;
    }
  }
  function discard() {
    forgetDraft();
    draft.value = drafted.peek();
    problem.value = null;
    step.value = null;
  }
  // If the function exists, a reload should open its own page.
  useEffect(() => {
    if (functionId === null) return;
    forgetDraft();
    stand(href(["functions", functionId]));
  }, [functionId]);
  async function dropped(event: DragEvent) {
    isOver.value = false;
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    change(await take(event.dataTransfer.files, draft.peek()));
  }
  async function chosen(event: Event) {
    const field = event.target as HTMLInputElement;
    change(await take(field.files ?? [], draft.peek()));
    field.value = "";
  }
  useEffect(() => {
    if (step.value === "done" || problem.value && fieldIn(problem.value) === null) {
      reveal(result.current);
    }
  }, [step.value, problem.value]);
  const over = (event: DragEvent) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    isOver.value = true;
  };
  return html`
    <form novalidate onSubmit=${go} onKeyDown=${submits}>
      <${Form} of=${taken ? null : problem.value} isApart>
        <p class="crumbs"><a href="#/">Functions</a> / ${functionId
          ? html`<a href=${href(["functions", functionId])}>${name}</a>`
          : "new"}</p>
        <div class="title stays">
          <h1>${name ??
            "New function"}</h1>
          <div class="actions">${functionId === null && isDrafted.value &&
            !isBusy &&
            html`<button class="button" type="button" onClick=${discard}>Discard</button>`}<button
          class="button primary" type="submit"
          disabled=${isBusy}>${isBusy ? "Working …" : verb} <kbd class="wide"
          aria-hidden="true">${CTRL_ENTER}</kbd></button></div>
        </div>
        <section class=${`card drop ${
          isOver.value ? "over" : ""
        }`} aria-label="Code" onDragOver=${over}
          onDragLeave=${() => {
            isOver.value = false;
          }} onDrop=${dropped}>
          <${Identity} draft=${now} change=${change} taken=${taken} isMade=${functionId !== null} />
          <div
            class="code-head small muted"><span class="mono">${mainFile(
              now.language,
              now.code,
            )}</span><label class="push link">Choose files<input type="file" multiple class="hidden-visually"
            onChange=${chosen} /></label><span class="wide">or drop them here</span></div>
          <${Code} text=${now.code} language=${now.language} label="Code" markedLine=${lineIn(
            problem.value,
            mainFile(now.language, now.code),
          )}
            onText=${(code: string) => change({ code })} />
          <${WrongOf} path="handler" label="Code" />
          <${Files} files=${now.files} change=${(files: readonly ImageFile[]) =>
            change({ files })} />
        </section>
        <section class="card after">
          <div class="inside field"><label for="payload">Payload</label>
          <textarea id="payload" rows="2" aria-describedby="payload-about" spellcheck=${false} value=${now
            .payload} placeholder="Text, often JSON; may be empty" onPaste=${refuseLong}
            onInput=${(event: Event) => change({ payload: valueOf(event) })} />
          <small id="payload-about" class="muted">${aboutPayload(now.payload)}</small>
          <${WrongOf} path="payload" label="Payload" of="payload" /></div>
        </section>
        <div
          ref=${result}><${Progress} draft=${now} step=${step} problem=${problem
            .value} answer=${isBusy ? null : answer.value} making=${making.current} />
        ${answer.value &&
          html`<${Answer} of=${answer.value} isOld=${isBusy} name=${name} id=${functionId} />`}</div>
        </${Form}>
        </form>
  `;
}
