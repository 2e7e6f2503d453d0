// One runtime: its content, limits, and permissions.
import { useSignal } from "@preact/signals";
import { call, get, type Refused } from "../api.ts";
import { html } from "../html.ts";
import type { PageProps } from "../page_props.ts";
import { visible } from "../parts/text/ansi.ts";
import { confirm } from "../parts/controls/confirm.ts";
import { useFetched, Waiting } from "../parts/lists/fetched.ts";
import { exact } from "../parts/text/format.ts";
import { Names } from "../parts/text/names.ts";
import { Notice } from "../parts/lists/notice.ts";
import { Belongs } from "../parts/resources/runtime.ts";
import { Files, Packages } from "../parts/resources/runtime_files.ts";
import { useTitle } from "../parts/text/title.ts";
import { toast, toastError } from "../parts/controls/toast.ts";
import { VariableValue } from "../parts/controls/variables.ts";
import { go, href } from "../router.ts";
import { functions } from "../store.ts";
import type { Runtime } from "../wire.ts";

const USERS = 12; // maximum functions named

/** The runtime's own limits; other limits are the server's defaults. */
function limitsOf(of: Runtime): string[] {
  const said: [number | null | undefined, string][] = [
    [of.process_limit, "processes"],
    [of.tmp_limit_mb, "MiB in /tmp"],
    [of.file_limit_mb, "MiB in a file"],
    [of.open_files_limit, "open files"],
  ];
  return said.filter(([limit]) => typeof limit === "number").map(([limit, unit]) =>
    `${limit} ${unit}`
  );
}

function Facts({ of }: { of: Runtime }) {
  const variables = Object.entries(of.environment);
  return html`
    <section class="card" aria-labelledby="facts">
      <header>
        <h2 id="facts">What it is</h2>
      </header>
      <dl class="pairs"><dt>Isolation</dt><dd>${of.isolation === "gvisor"
        ? "gVisor, a kernel of its own"
        : "crun, on the machine's kernel"}</dd>
          <dt>Network</dt><dd>${of.network === "egress" ? "egress: public addresses" : "none"}</dd>
          ${of.command.length > 0 && html`
            <dt>Command</dt>
            <dd><code>${visible(of.command.join(" "))}</code></dd>
          `}
          ${of.writable_paths.length > 0 && html`
            <dt>Writable</dt>
            <dd>
              <${Names} of=${of.writable_paths} />
            </dd>
          `}
          ${limitsOf(of).length > 0 && html`
            <dt>Limits</dt>
            <dd>${limitsOf(of).join(", ")}</dd>
          `}
          <dt>Environment</dt><dd>${variables.length
            ? html`<ul class="plain">${
              variables.map(([name, value]) =>
                html`<li key=${name}><code>${name}</code> <${VariableValue} name=${name}
                  value=${value} /></li>`
              )
            }</ul>`
            : html`<span class="muted">none</span>`}</dd>
          <dt>Image</dt><dd class="mono small">${of.image ?? of.image_digest}</dd>
          ${of.packages && html`
            <dt>Packages</dt>
            <dd class="mono small">${of.packages}</dd>
          `}
          ${of.base_image !== null && html`
            <dt>Base image</dt>
            <dd class="mono small">${of.base_image} ${of.interpreter}</dd>
          `}
          ${!of.built_in && html`
            <dt>Made</dt>
            <dd>${exact(of.created_at)}</dd>
          `}</dl>
    </section>
  `;
}

function Users({ of }: { of: Runtime }) {
  const all = [...functions.value.values()].filter((fn) => fn.runtime === of.name);
  return html`<section class="card" aria-labelledby="users"><header><h2 id="users">Functions that use it</h2>
      <span class="muted num small">${all.length}</span></header>
    ${
    all.length === 0
      ? html`<p class="empty small">None.</p>`
      : html`<ul class="moments">${
        all.slice(0, USERS).map((fn) =>
          html`<li key=${fn.id}><a href=${href(["functions", fn.id])}>${fn.name}</a></li>`
        )
      }${all.length > USERS && html`<li class="muted">and ${all.length - USERS} more</li>`}</ul>`
  }</section>`;
}

export default function RuntimePage({ name = "" }: PageProps) {
  const path = `api/runtimes/${encodeURIComponent(name)}`;
  const { value, problem, again } = useFetched(
    (signal) => get<Runtime>(path, {}, signal),
    [path],
  );
  const isBusy = useSignal(false);
  useTitle(name);
  const runtime = value.value;
  if (problem.value && !runtime) return html`<${Notice} of=${problem.value} onRetry=${again} />`;
  if (!runtime) return html`<${Waiting} />`;
  async function remove(of: Runtime) {
    const text = "New versions cannot use it any more. Functions that have it go on with it.";
    if (!await confirm({ title: `Delete ${name}?`, text, verb: "Delete" })) return;
    isBusy.value = true;
    try {
      await call("DELETE", path, { query: { shared: of.shared || null } });
      toast(`${name} is deleted.`);
      go("#/runtimes");
    } catch (error) {
      toastError(error as Refused);
    }
    isBusy.value = false;
  }
  return html`
    <p class="crumbs"><a href="#/runtimes">Runtimes</a> / ${name}</p>
    <div class="title"><h1>${name}</h1><span class="muted">${runtime.kind}</span>
          <span class="actions">${!runtime.built_in &&
            html`<button class="button" type="button" disabled=${isBusy.value} onClick=${() =>
              remove(runtime)}>Delete</button>`}</span></div>
    <p class="facts"><span>belongs to <b><${Belongs} of=${runtime} /></b></span></p>
    <div class="grid">
      <${Facts} of=${runtime} />
      <${Users} of=${runtime} />
    </div>
    ${(runtime.image ?? runtime.packages) &&
      html`
        <div class="grid">
          <${Files} path=${path} />
          <${Packages} path=${path} />
        </div>
      `}
  `;
}
