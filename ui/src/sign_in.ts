// Shown if the server requires a key and this tab has no valid one.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { credential, get, type Refused, root } from "./api.ts";
import { html } from "./html.ts";
import { Copy } from "./parts/controls/copy.ts";

const KEYS_DOCS = new URL("docs/how-to/keys.html", root()).href;

/** Whether the server has the documentation, which the API does not tell callers without a key. */
async function lookForDocs(): Promise<boolean> {
  try {
    return (await fetch(KEYS_DOCS, { method: "HEAD", credentials: "omit" })).ok;
  } catch {
    return false;
  }
}

export function SignIn() {
  const text = useSignal("");
  const problem = useSignal<string | null>(null);
  const isBusy = useSignal(false);
  const hasDocs = useSignal(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    field.current?.focus();
    lookForDocs().then((found) => {
      hasDocs.value = found;
    });
  }, []);
  async function enter(event: Event) {
    event.preventDefault();
    const before = credential.get();
    isBusy.value = true;
    problem.value = null;
    try {
      sessionStorage.setItem("quiltfn.key", text.value.trim());
      await get("api/whoami");
      credential.set(text.value.trim());
    } catch (error) {
      if (before === null) sessionStorage.removeItem("quiltfn.key");
      problem.value = (error as Refused).message;
    }
    isBusy.value = false;
  }
  return html`
    <form class="card sign-in" onSubmit=${enter}>
      <h1>Sign in</h1>
      <p class="muted">This server asks for a key. It is kept for this tab alone.</p>
      <div class="field"><label for="key">API key</label>
          <input class="text mono" id="key" ref=${field} type="password" required autocomplete="off"
            spellcheck=${false} placeholder="quilt_sk_…" value=${text.value}
            aria-describedby="key-problem" onInput=${(event: InputEvent) => {
              text.value = (event.target as HTMLInputElement).value;
            }} /></div>
      <p id="key-problem" role="alert" class="some">${problem.value}</p>
      <button class="button primary" type="submit" disabled=${isBusy.value}>Sign in</button>
      <p
        class="muted small">On the machine of a server that is a service, as root, this creates one:</p>
      <${Copy} text="quiltfn keys create --scope write --data-dir /var/lib/quiltfn/data" />
      <p class="muted small">For a server that was started by hand, name the directory of its${" "}
        <code>--data-dir</code>; for a node of a fleet, replace that option with <code>--fleet FILE</code>.</p>
      ${hasDocs.value &&
        html`<p class="small"><a href=${KEYS_DOCS}>Documentation of keys</a></p>`}
    </form>
  `;
}
