// The files that a function's runtime has: other ones make a new image, and a new version of the function.
import { useSignal } from "@preact/signals";
import { call } from "../../api.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/ansi.ts";
import { Code } from "../../parts/code.ts";
import { confirm } from "../../parts/confirm.ts";
import { useFetched, Waiting } from "../../parts/fetched.ts";
import { bytes, counted } from "../../parts/format.ts";
import { Notice } from "../../parts/notice.ts";
import { type File as ImageFile, tar } from "../../parts/tar.ts";
import { toastError } from "../../parts/toast.ts";
import { functions } from "../../store.ts";
import type { Function, Image, NewRuntime, Runtime } from "../../wire.ts";
import {
  languageOf,
  listFiles,
  type Listing,
  readFile,
  textOf,
  whyNotEdited,
} from "../../version_files.ts";
import { settle } from "./settings.ts";

/** The runtime with another image; what it has besides stays as it is. */
export function withImage(of: Runtime, image: string): NewRuntime {
  const { name, kind, command, environment, isolation, network, writable_paths, shared } = of;
  return {
    name,
    kind: kind as "shell",
    image,
    environment,
    isolation: isolation as "crun",
    network: network as "none",
    writable_paths,
    ...(kind === "custom" && { command }),
    ...(shared && { shared }),
  };
}

async function uploaded(list: readonly File[]): Promise<ImageFile[]> {
  return await Promise.all(list.map(async (file) => ({
    path: file.webkitRelativePath || file.name,
    content: new Uint8Array(await file.arrayBuffer()),
  })));
}

async function replace(
  one: Function,
  runtime: Runtime,
  files: readonly ImageFile[],
): Promise<void> {
  const image = await call<Image>("POST", "api/runtimes/images", {
    body: tar(files),
    type: "application/x-tar",
  });
  await call("POST", "api/runtimes", { body: withImage(runtime, image.digest) });
  const body = { runtime: runtime.name };
  await settle(one, await call<Function>("PUT", `api/functions/${one.id}`, { body }), true);
}

/** What other functions have of it, as a sentence; empty where there are none. */
function shared(one: Function, runtime: Runtime): string {
  const others = [...functions.peek().values()].filter((other) =>
    other.runtime === runtime.name && other.id !== one.id
  );
  if (others.length === 0) return "";
  const who = counted(others.length, "other function");
  return ` ${who} with this runtime will have them from the next update on.`;
}

async function isAgreed(one: Function, runtime: Runtime, list: readonly File[]): Promise<boolean> {
  return await confirm({
    title: `Replace the files of ${runtime.name}?`,
    text: `${counted(list.length, "file")} will be all that the image has: ` +
      `${list.slice(0, 5).map((file) => file.name).join(", ")}${list.length > 5 ? ", …" : ""}.` +
      `${shared(one, runtime)} Earlier versions keep theirs.`,
    verb: "Replace and deploy",
  });
}

/** One file, to read and, where that can be, to change. */
function OpenFile({ one, runtime, listing, path, isReadOnly, onClose }: {
  one: Function;
  runtime: Runtime;
  listing: Listing;
  path: string;
  isReadOnly: boolean;
  onClose: () => void;
}) {
  const draft = useSignal<string | null>(null);
  const isBusy = useSignal(false);
  const { value, problem, again } = useFetched(
    async (signal) => ({ text: textOf(await readFile(one.id, one.current_version, path, signal)) }),
    [one.id, one.current_version, path],
  );
  const text = value.value?.text;
  const why = whyNotEdited(listing);
  const isEditable = !isReadOnly && why === null && typeof text === "string";
  const isChanged = isEditable && draft.value !== null && draft.value !== text;
  async function save() {
    const changed = draft.peek();
    if (isBusy.peek() || !isChanged || changed === null) return;
    const others = shared(one, runtime);
    const question = {
      title: `Change ${path}?`,
      text: `A new version gets the changed files.${others}`,
      verb: "Save and deploy",
    };
    if (others && !(await confirm(question))) return;
    isBusy.value = true;
    try {
      const files = await Promise.all(listing.files.map(async (file) => ({
        path: file.path,
        isExecutable: file.is_executable,
        content: file.path === path
          ? new TextEncoder().encode(changed)
          : await readFile(one.id, one.current_version, file.path),
      })));
      await replace(one, runtime, files);
    } catch (error) {
      toastError(error);
    } finally {
      isBusy.value = false;
    }
  }
  return html`
    <div class="open-file" onKeyDown=${(event: KeyboardEvent) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      event.stopPropagation(); // the form around it has a Save of its own
      save();
    }}>
      <div class="code-head small"><span class="mono">${visible(path)}</span>
        <div class="push actions">${isChanged && html`
          <button class="button primary" type="button" aria-disabled=${isBusy.value}
            onClick=${save}>${isBusy.value ? "Working …" : "Save this file and deploy"}</button>
        `}<button class="button" type="button" onClick=${onClose}>Close</button></div></div>
      ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
      ${!isReadOnly && why && html`<p class="inside muted">It can be read here. ${why}</p>`}
      ${value.value === null
        ? !problem.value && html`<${Waiting} />`
        : text === null
        ? html`<p class="inside muted">It is no text, or too long to be shown.</p>`
        : html`
          <${Code} text=${text} language=${languageOf(path)} label=${visible(path)}
            key=${`${one.current_version} ${path}`} ...${isEditable
              ? { onText: (changed: string) => draft.value = changed }
              : {}} />
        `}
    </div>
  `;
}

export function Files({ one, runtime, isReadOnly }: {
  one: Function;
  runtime: Runtime;
  isReadOnly: boolean;
}) {
  const isBusy = useSignal(false);
  const opened = useSignal<string | null>(null);
  const { value, problem, again } = useFetched(
    (signal) => listFiles(one.id, one.current_version, signal),
    [one.id, one.current_version],
  );
  async function chosen(event: Event) {
    const field = event.target as HTMLInputElement;
    const list = [...field.files ?? []];
    field.value = "";
    if (list.length === 0 || !(await isAgreed(one, runtime, list))) return;
    isBusy.value = true;
    await uploaded(list).then((files) => replace(one, runtime, files)).catch(toastError);
    isBusy.value = false;
  }
  const found = value.value;
  const path = opened.value;
  return html`
    <div
      class="code-head small"><span class="muted">Files of this version</span>${!isReadOnly &&
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
                `}<span class="muted num small">${bytes(file.size_bytes)}</span></li>
          `
        )
      }${!found.isWhole && html`<li class="muted">and more</li>`}${
        found.files.length === 0 && html`<li class="muted">It has no files.</li>`
      }</ul>`}
    ${found && path !== null && found.files.some((file) => file.path === path) &&
      html`
        <${OpenFile} one=${one} runtime=${runtime} listing=${found} path=${path}
          isReadOnly=${isReadOnly} onClose=${() => {
            opened.value = null;
          }} key=${path} />
      `}
  `;
}
