// The files that a function's runtime has: other ones make a new image, and a new version of the function.
import { useSignal } from "@preact/signals";
import { call, get } from "../../api.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/ansi.ts";
import { confirm } from "../../parts/confirm.ts";
import { useFetched } from "../../parts/fetched.ts";
import { bytes, counted } from "../../parts/format.ts";
import { Notice } from "../../parts/notice.ts";
import { tar } from "../../parts/tar.ts";
import { toastError } from "../../parts/toast.ts";
import { functions } from "../../store.ts";
import type { Function, Image, NewRuntime, Runtime, RuntimeFilePage } from "../../wire.ts";
import { settle } from "./settings.ts";

const LISTED = 100;

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

async function replace(one: Function, runtime: Runtime, list: readonly File[]): Promise<void> {
  const files = await Promise.all(list.map(async (file) => ({
    path: file.webkitRelativePath || file.name,
    content: new Uint8Array(await file.arrayBuffer()),
  })));
  const image = await call<Image>("POST", "api/runtimes/images", {
    body: tar(files),
    type: "application/x-tar",
  });
  await call("POST", "api/runtimes", { body: withImage(runtime, image.digest) });
  const body = { runtime: runtime.name };
  await settle(one, await call<Function>("PUT", `api/functions/${one.id}`, { body }), true);
}

async function isAgreed(one: Function, runtime: Runtime, list: readonly File[]): Promise<boolean> {
  const others = [...functions.peek().values()].filter((other) =>
    other.runtime === runtime.name && other.id !== one.id
  );
  const shared = others.length === 0
    ? ""
    : ` ${
      counted(others.length, "other function")
    } with this runtime will have them from the next ` +
      "update on.";
  return await confirm({
    title: `Replace the files of ${runtime.name}?`,
    text: `${counted(list.length, "file")} will be all that the image has: ` +
      `${list.slice(0, 5).map((file) => file.name).join(", ")}${list.length > 5 ? ", …" : ""}.` +
      `${shared} Earlier versions keep theirs.`,
    verb: "Replace and deploy",
  });
}

export function Files({ one, runtime, isReadOnly }: {
  one: Function;
  runtime: Runtime;
  isReadOnly: boolean;
}) {
  const isBusy = useSignal(false);
  const { value, problem, again } = useFetched(
    (signal) =>
      get<RuntimeFilePage>(`api/runtimes/${runtime.name}/files`, { limit: LISTED }, signal),
    [runtime.name, runtime.image_digest, one.current_version],
  );
  async function chosen(event: Event) {
    const field = event.target as HTMLInputElement;
    const list = [...field.files ?? []];
    field.value = "";
    if (list.length === 0 || !(await isAgreed(one, runtime, list))) return;
    isBusy.value = true;
    await replace(one, runtime, list).catch(toastError);
    isBusy.value = false;
  }
  const found = value.value;
  return html`
    <div
      class="code-head small"><span class="muted">Files of the runtime's image</span>${!isReadOnly &&
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
      html`<ul class="files" aria-label="Files of the image">${
        found.files.map((file) =>
          html`
            <li
              key=${file.path}><span class="mono">${visible(
                file.path,
              )}</span><span class="muted num small">${bytes(file.size_bytes)}</span></li>
          `
        )
      }${found.next_cursor && html`<li class="muted">and more</li>`}${
        found.files.length === 0 && html`<li class="muted">It has no files.</li>`
      }</ul>`}
  `;
}
