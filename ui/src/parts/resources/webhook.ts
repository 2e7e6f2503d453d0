// The signature that webhooks must have: its scheme, its secret, and a test delivery.
import { useSignal } from "@preact/signals";
import { useId } from "preact/hooks";
import { html } from "../../html.ts";
import { newSecret, type Scheme, SENDERS, testDelivery } from "../../signing.ts";
import type { WebhookRule } from "../../wire.ts";
import { Copy } from "../controls/copy.ts";
import { useFailure, Wrong } from "../controls/failing.ts";
import { Described } from "../controls/described.ts";
import { toastError } from "../controls/toast.ts";

const DOTS = "••••••••••••••••";

interface Props {
  /** `secret`: null for the server's present secret. */
  of: WebhookRule;
  /** The scheme of the server's present secret; null: no secret is stored. */
  kept: Scheme | null;
  /** The URL's address; null: the function has no URL yet. */
  url: string | null;
  isReadOnly: boolean;
  onValue: (to: WebhookRule) => void;
  /** Gets the secret from the server. */
  onReveal: () => Promise<string>;
}

export function Webhook({ of, kept, url, isReadOnly, onValue, onReveal }: Props) {
  const { scheme, secret = null } = of;
  const revealed = useSignal<string | null>(null);
  const isShown = useSignal(false);
  const known = secret ?? revealed.value;
  const sender = SENDERS[scheme];

  async function show() {
    try {
      if (secret === null) revealed.value ??= await onReveal();
      isShown.value = true;
    } catch (error) {
      toastError(error);
    }
  }
  // After saving, the typed secret is the server's present secret.
  function change(to: string) {
    revealed.value = to;
    onValue({ scheme, secret: to });
  }
  function choose(chosen: Scheme) {
    revealed.value = null;
    isShown.value = false;
    onValue({ scheme: chosen, secret: chosen === kept ? null : "" });
  }
  function generate() {
    isShown.value = true;
    change(newSecret(scheme));
  }
  return html`
    <div class="settings">
      <${Described} shape="WebhookRule" within="webhook" name="scheme" label="Scheme" value=${scheme}
        isReadOnly=${isReadOnly} onValue=${choose} />
      ${!isReadOnly && html`
        <${Secret} value=${known} isKept=${secret === null} isShown=${isShown.value}
          onText=${change} onGenerate=${generate}
          onToggle=${() => isShown.value ? (isShown.value = false) : show()} />
      `}
    </div>
    <dl class="pairs sender"><dt>${sender.title} signs with</dt><dd>${sender.headers}</dd>
      <dt>Set it up there</dt><dd>${sender.steps}</dd>
      ${!isReadOnly && url !== null && html`
        <dt>A test delivery</dt>
        <dd>${secret !== null
          ? "Save first: calls are checked with the secret that is saved."
          : known !== null && isShown.value
          ? html`<${Copy} text=${testDelivery(scheme, known, url) ?? ""} label="test delivery" />`
          : html`<button class="button" type="button" onClick=${show}>Show it with its signature</button>`}</dd>
      `}</dl>
  `;
}

function Secret({ value, isKept, isShown, onText, onToggle, onGenerate }: {
  value: string | null;
  isKept: boolean;
  isShown: boolean;
  onText: (text: string) => void;
  onToggle: () => void;
  onGenerate: () => void;
}) {
  const id = useId();
  const said = useFailure("webhook.secret", "Secret", id);
  return html`
    <div class="field wide-field"><label for=${id}>Secret</label>
      <div class="joined"><input class="text mono" id=${id} type=${isShown ? "text" : "password"}
          value=${value ?? ""} placeholder=${isKept ? DOTS : ""} required=${!isKept}
          autocomplete="off" spellcheck=${false} aria-describedby=${`${id}-wrong ${id}-about`} aria-invalid=${said
            ? true
            : null}
          onInput=${(event: Event) => onText((event.target as HTMLInputElement).value)} />
        ${(isKept || value) && html`
          <button class="button" type="button" aria-pressed=${isShown}
            onClick=${onToggle}>${isShown ? "Hide" : "Reveal"}</button>
        `}
        <button class="button" type="button" onClick=${onGenerate}>Generate</button></div>
      <${Wrong} said=${said} id=${`${id}-wrong`} />
      <small class="muted" id=${`${id}-about`}>${isKept
        ? "It has one. Another one that is typed here takes its place."
        : "Generate one, or paste that of the sender."}</small></div>
  `;
}
