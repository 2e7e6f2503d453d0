// Replays the stored input of an invocation, unchanged or edited, on any version.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { call, get, type Refused } from "../../api.ts";
import { html } from "../../html.ts";
import { go, href } from "../../router.ts";
import type { Invocation, InvocationInput, VersionPage } from "../../wire.ts";
import { callPath } from "./call.ts";
import { useFetched, Waiting } from "../lists/fetched.ts";
import { Form as Failing } from "../controls/failing.ts";
import { Area, Select } from "../controls/form.ts";
import { submits } from "../text/keys.ts";
import { Notice } from "../lists/notice.ts";

const VERSIONS = 100; // maximum versions offered, newest first
const MODES = [
  ["sync", "now, and wait for its end"],
  ["async", "through the queue, as its policy says"],
] as const;

interface Given {
  input: InvocationInput;
  versions: VersionPage["versions"];
}

export function Replay(
  { functionId, invocationId, onClose }: {
    functionId: string;
    invocationId: string;
    onClose: () => void;
  },
) {
  const dialog = useRef<HTMLDialogElement>(null);
  const path = callPath(functionId, invocationId);
  const { value, problem } = useFetched<Given>(async (signal) => {
    const [input, found] = await Promise.all([
      get<InvocationInput>(`${path}/input`, {}, signal),
      get<VersionPage>(`api/functions/${functionId}/versions`, { limit: VERSIONS }, signal),
    ]);
    return { input, versions: found.versions };
  }, [path]);
  useEffect(() => dialog.current?.showModal(), []);
  return html`<dialog class="card replay" ref=${dialog} aria-labelledby="replay" onClose=${onClose}>
    <h2 id="replay">Replay</h2>
    ${
    problem.value
      ? html`<${Notice} of=${problem.value} />`
      : value.value
      ? html`<${Form} path=${path} given=${value.value} onCancel=${() =>
        dialog.current?.close()} />`
      : html`<${Waiting} />`
  }</dialog>`;
}

function Form(
  { path, given, onCancel }: { path: string; given: Given; onCancel: () => void },
) {
  const before = given.input.payload;
  const payload = useSignal(before ?? "");
  const version = useSignal("");
  const mode = useSignal("sync");
  const problem = useSignal<Refused | null>(null);
  const isBusy = useSignal(false);
  const isChanged = payload.value !== (before ?? "");

  async function run(event?: Event) {
    event?.preventDefault();
    if (isBusy.value) return;
    isBusy.value = true;
    problem.value = null;
    try {
      const made = await call<Invocation>("POST", `${path}/replay`, {
        body: {
          version: version.value === "" ? null : Number(version.value),
          mode: mode.value,
          ...(isChanged && { payload: payload.value }),
        },
      });
      go(href(["functions", made.function_id, "invocations", made.invocation_id]));
    } catch (error) {
      problem.value = error as Refused;
      isBusy.value = false;
    }
  }
  const numbers = given.versions.map((each) =>
    [
      String(each.version),
      `version ${each.version}${each.is_active ? ", the current one" : ""}`,
    ] as const
  );
  return html`
    <form onSubmit=${run} onKeyDown=${submits}>
      <${Failing} of=${problem.value}>
        <${Area} label="Payload" name="payload" value=${payload} rows=${8}
          about=${isChanged
            ? "Changed; the call that it comes from keeps its own"
            : "As it was given"} />
        <${Select} label="Version" name="version" value=${version} options=${[[
          "",
          "the one for new calls",
        ], ...numbers]} />
        <${Select} label="Run it" name="mode" value=${mode} options=${MODES} />
        </${Failing}>
        <div class="actions"><button class="button" type="button" onClick=${onCancel}>Close</button>
          <button class="button primary" type="submit" disabled=${isBusy.value}>${isBusy.value
            ? "Running …"
            : "Replay"}</button></div>
        </form>
  `;
}
