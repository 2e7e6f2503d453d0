// Important notices about a function: its runtime has changed, the platform has a note on it, or a version
// could not start.
import { get } from "../../api.ts";
import { closed, FunctionFailed } from "../../current.ts";
import { html } from "../../html.ts";
import { named, outdatedBy } from "../../outdated.ts";
import { visible } from "../../parts/text/ansi.ts";
import { useFetched } from "../../parts/lists/fetched.ts";
import { Notice } from "../../parts/lists/notice.ts";
import { href } from "../../router.ts";
import { standingOf } from "../../saving.ts";
import { areAllLoaded } from "../../store.ts";
import type { Function, VersionPage } from "../../wire.ts";

const VERSIONS = 100;

/** Empty until the functions that use the runtime are loaded. */
function Replaced({ fn, section }: { fn: Function; section: string }) {
  const isKnown = areAllLoaded.value;
  const { value } = useFetched(async (signal) => {
    if (!isKnown) return null;
    const standing = await standingOf(fn, signal);
    const path = `api/functions/${fn.id}/versions`;
    const { versions } = await get<VersionPage>(path, { limit: VERSIONS }, signal);
    return standing && outdatedBy(fn, standing, versions);
  }, [fn.id, fn.current_version, fn.updated_at, isKnown]);
  const found = value.value;
  if (found === null) return null;
  if (found === "runtime") {
    return html`
      <p
        class="notice">The runtime <a href=${href(["runtimes", fn.runtime])}>${fn
          .runtime}</a> was replaced since version ${fn
          .current_version} was made. That version keeps what it was made with; <a
          href=${href([
            "functions",
            fn.id,
            "settings",
          ])}>Code and settings</a> says what the next one
        gets.</p>
    `;
  }
  if (found.length === 0 || section === "versions") return null;
  return html`
    <p
      class="notice told-only">Version ${fn.current_version} is current; newer: <a href=${href([
        "functions",
        fn.id,
        "versions",
      ])}>${named(found)}</a>.</p>
  `;
}

export function Notices({ fn, section }: { fn: Function; section: string }) {
  const error = fn.error_message;
  const isClosed = error !== null && closed(fn.id).value === error;
  return html`
    ${fn.runtime_outdated && section !== "settings" &&
      html`<${Replaced} fn=${fn} section=${section} />`}
    ${fn.note && html`<p class="notice">${visible(fn.note)}</p>`}
    ${error && !isClosed && html`
      <${Notice} of=${new FunctionFailed(fn)} onClose=${() => {
        closed(fn.id).value = error;
      }} />
    `}
  `;
}
