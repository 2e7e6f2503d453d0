// The files of a function's version: shown, edited (saved with the settings), or replaced.
import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { withoutCompiled } from "../../compiled.ts";
import { tell } from "../../current.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/text/ansi.ts";
import { Code } from "../../parts/controls/code.ts";
import { useFetched, Waiting } from "../../parts/lists/fetched.ts";
import { bytes } from "../../parts/text/format.ts";
import { Notice } from "../../parts/lists/notice.ts";
import type { File as ImageFile } from "../../parts/resources/tar.ts";
import { replaceFiles } from "../../saving.ts";
import type { Function, Runtime } from "../../wire.ts";
import {
  languageOf,
  lineIn,
  listFiles,
  type Listing,
  mainOf,
  readFile,
  textOf,
  whyNotEdited,
} from "../../version_files.ts";

/** Unsaved texts by the paths of their files. */
export type Edits = ReadonlyMap<string, string>;

async function uploaded(list: readonly File[]): Promise<ImageFile[]> {
  const named = list.map((file) => ({ path: file.webkitRelativePath || file.name, file }));
  return await Promise.all(
    withoutCompiled(named).map(async ({ path, file }) => ({
      path,
      content: new Uint8Array(await file.arrayBuffer()),
    })),
  );
}

export interface Editing {
  edits: Edits;
  /** `text`: null if it is the same as the version's. */
  onEdit: (path: string, text: string | null) => void;
  /** Why the files could not be saved or deployed. */
  problem: Error | null;
}

/** One file, shown and, if possible, editable. */
function OpenFile({ fn, listing, path, edits, onEdit, problem: refused }: Editing & {
  fn: Function;
  listing: Listing;
  path: string;
}) {
  const version = fn.current_version;
  const { value, problem, again } = useFetched(
    async (signal) => ({ version, text: textOf(await readFile(fn.id, version, path, signal)) }),
    [fn.id, version, path],
  );
  // While the text of another version is fetched, the editor stays, so that its cursor is kept.
  const last = useRef<string | null | undefined>(undefined);
  const saved = value.value?.version === version ? value.value.text : undefined;
  const text = last.current = edits.get(path) ?? (saved === undefined ? last.current : saved);
  const why = whyNotEdited(listing);
  const isEditable = why === null && typeof text === "string";
  return html`
    <div class="open-file">
      ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
      ${why && html`<p class="inside muted">It can be read here. ${why}</p>`}
      ${text === undefined
        ? !problem.value && html`<${Waiting} />`
        : text === null
        ? html`<p class="inside muted">Binary file, or too large to show.</p>`
        : html`
          <${Code} text=${text} language=${languageOf(path)} label=${visible(path)}
            markedLine=${lineIn(refused, path)} ...${isEditable
              ? { onText: (changed: string) => onEdit(path, changed === saved ? null : changed) }
              : {}} />
        `}
    </div>
  `;
}

export function Files({ fn, runtime, isReadOnly, ...editing }: Editing & {
  fn: Function;
  runtime: Runtime;
  isReadOnly: boolean;
}) {
  const isBusy = useSignal(false);
  const opened = useSignal<string | null | undefined>(undefined);
  const { value, problem, again } = useFetched(
    (signal) => listFiles(fn.id, fn.current_version, signal),
    [fn.id, fn.current_version],
  );
  const last = useRef<Listing | null>(null);
  const found = last.current = value.value ?? last.current;
  async function chosen(event: Event) {
    const field = event.target as HTMLInputElement;
    const list = [...field.files ?? []];
    field.value = "";
    if (list.length === 0) return;
    isBusy.value = true;
    await uploaded(list).then((files) => replaceFiles(fn, runtime, files)).catch(
      (error) => tell(fn.id, error),
    );
    isBusy.value = false;
  }
  const main = found && runtime.kind !== "shell" ? mainOf(found.files, fn.handler) : null;
  const path = isReadOnly ? null : opened.value === undefined ? main : opened.value;
  return html`
    <div
      class="code-head small"><span class="muted">Files of version ${fn
        .current_version}</span>${!isReadOnly &&
        html`
          <label
            class="push link">${isBusy.value
              ? "Working …"
              : "Replace the files"}<input type="file" multiple class="hidden-visually" disabled=${isBusy
              .value}
                onChange=${chosen} /></label>
        `}</div>
    ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
    ${found &&
      html`<ul class="files" aria-label="Files of this version">${
        found.files.map((file) =>
          html`
            <li
              key=${file.path}>${isReadOnly || file.is_link
                ? html`<span class="mono">${visible(file.path)}</span>`
                : html`
                  <button class="link mono" type="button" aria-expanded=${path === file.path}
                    onClick=${() => {
                      opened.value = path === file.path ? null : file.path;
                    }}>${visible(file.path)}</button>
                `}<span class="muted num small">${bytes(file.size_bytes)}</span>${editing.edits.has(
                  file.path,
                ) && html`<span class="badge">changed</span>`}</li>
          `
        )
      }${!found.isWhole && html`<li class="muted">and more</li>`}${
        found.files.length === 0 && html`<li class="muted">It has no files.</li>`
      }</ul>`}
    ${found && path !== null && found.files.some((file) => file.path === path) &&
      html`
        <${OpenFile} fn=${fn} listing=${found} path=${path} ...${editing}
          key=${path} />
      `}
  `;
}
