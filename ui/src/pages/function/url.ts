// The URL of a function for plain HTTP, which the user creates here.
import { useSignal } from "@preact/signals";
import { call, get } from "../../api.ts";
import { functionUrl } from "../../current.ts";
import { addressOf, fetchUrl } from "../../function_url.ts";
import { html } from "../../html.ts";
import { confirm } from "../../parts/controls/confirm.ts";
import { Copy } from "../../parts/controls/copy.ts";
import { count } from "../../parts/text/format.ts";
import { Described } from "../../parts/controls/described.ts";
import { useFetched } from "../../parts/lists/fetched.ts";
import { Form } from "../../parts/controls/failing.ts";
import { Notice } from "../../parts/lists/notice.ts";
import { Ago } from "../../parts/text/time.ts";
import { toast, toastError } from "../../parts/controls/toast.ts";
import { Webhook } from "../../parts/resources/webhook.ts";
import { may } from "../../scope.ts";
import type { CorsRule, Function, FunctionUrl, NewFunctionUrl, WebhookRule } from "../../wire.ts";

const SHAPE = "NewFunctionUrl";
const NEW: NewFunctionUrl = {
  auth: "key",
  webhook: null,
  cors: null,
  methods: null,
  stream: false,
};

function Cors({ of, isReadOnly, onValue }: {
  of: CorsRule;
  isReadOnly: boolean;
  onValue: (to: CorsRule) => void;
}) {
  const words = (
    name: "allow_origins" | "allow_methods" | "allow_headers" | "expose_headers",
    label: string,
  ) =>
    html`
      <${Described} shape="CorsRule" within="cors" name=${name} label=${label} value=${of[name] ??
        []}
        isReadOnly=${isReadOnly} onValue=${(all: string[]) => onValue({ ...of, [name]: all })} />
    `;
  const field = (
    name: "allow_credentials" | "max_age_seconds",
    label: string,
    missing: boolean | number,
  ) =>
    html`
      <${Described} shape="CorsRule" within="cors" name=${name} label=${label} value=${of[name] ??
        missing}
        isReadOnly=${isReadOnly} onValue=${(value: unknown) => onValue({ ...of, [name]: value })} />
    `;
  return html`<div class="settings">${words("allow_origins", "Origins")}${
    words("allow_methods", "Methods of other origins")
  }${words("allow_headers", "Headers they send")}${words("expose_headers", "Headers they read")}${
    field("max_age_seconds", "Remembered for", 0)
  }${field("allow_credentials", "With credentials", false)}</div>`;
}

const CALLERS = {
  key: "key: who has one",
  none: "none: anybody",
  webhook: "webhook: who can sign",
};

/** The draft with the URL's present rules. The secret is null, which keeps the stored one, since
 * the response has it masked.
 */
function rulesOf(url: FunctionUrl): NewFunctionUrl {
  const { path: _path, host: _host, refused: _refused, last_refused_at: _last, ...more } = url;
  const { webhook, ...rules } = more;
  return { ...rules, webhook: webhook && { ...webhook, secret: null } } as NewFunctionUrl;
}

function Rules({ of, url, change, isReadOnly, onReveal }: {
  of: NewFunctionUrl;
  url: FunctionUrl | null;
  change: (part: Partial<NewFunctionUrl>) => void;
  isReadOnly: boolean;
  onReveal: () => Promise<string>;
}) {
  const kept = url?.webhook?.scheme ?? null;
  const { auth = "key", webhook, cors, methods, stream = false } = of;
  return html`
    <div class="settings">
      <${Described} shape=${SHAPE} name="auth" label="Who may call" value=${auth}
        words=${CALLERS} isReadOnly=${isReadOnly} onValue=${(chosen: "key" | "none" | "webhook") =>
          change({
            auth: chosen,
            webhook: chosen === "webhook"
              ? { scheme: kept ?? "standard", secret: kept ? null : "" }
              : null,
          })} />
      <${Described} shape=${SHAPE} name="methods" label="Methods" value=${methods ?? []}
        isReadOnly=${isReadOnly}
        onValue=${(all: string[]) => change({ methods: all.length > 0 ? all : null })} />
      <${Described} shape=${SHAPE} name="stream" label="Stream the answer" value=${stream}
        isReadOnly=${isReadOnly} onValue=${(to: boolean) => change({ stream: to })} />
    </div>
    ${webhook && html`
      <${Webhook} of=${webhook} kept=${kept} url=${url && addressOf(url)} isReadOnly=${isReadOnly}
        onReveal=${onReveal} onValue=${(to: WebhookRule) => change({ webhook: to })} />
    `}
    <div class="field"><label class="check"><input type="checkbox" checked=${cors != null}
      disabled=${isReadOnly} onChange=${() =>
        change({ cors: cors ? null : { allow_origins: ["*"] } })} /> Pages of other origins may call
      (CORS)</label></div>
    ${cors && html`
      <${Cors} of=${cors} isReadOnly=${isReadOnly}
        onValue=${(to: CorsRule) => change({ cors: to })} />
    `}
  `;
}

/** The reason for refused requests in words, if the API's own word could be misunderstood. */
const REFUSED: Record<string, string> = { time: "signature too old or too early" };

function Refusals({ of: { refused = {}, last_refused_at: last } }: { of: FunctionUrl }) {
  if (last == null) return null;
  const counts = Object.entries(refused).map(([why, many]) =>
    `${REFUSED[why] ?? why} ${count(many)}`
  );
  const total = Object.values(refused).reduce((sum, many) => sum + many, 0);
  return html`
    <p class="muted small">Refused since the server started: ${count(total)} (${counts.join(
      ", ",
    )}); the last one
      ${" "}<${Ago} at=${last} />.</p>
  `;
}

export function Url({ fn }: { fn: Function }) {
  const path = `api/functions/${fn.id}/url`;
  const { value, problem, again } = useFetched(
    async (signal) => {
      const url = functionUrl(fn.id).value = await fetchUrl(fn.id, signal);
      return { url };
    },
    [fn.id, fn.name],
  );
  const draft = useSignal<NewFunctionUrl | null>(null);
  const failed = useSignal<Error | null>(null);
  const isReadOnly = !may("write");
  const found = value.value;
  if (!found) return problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`;
  const { url } = found;
  async function save(event: Event) {
    event.preventDefault();
    const body = draft.peek();
    if (!body) return;
    failed.value = null;
    try {
      await call("PUT", path, { body });
      await again();
      if (draft.peek() === body) draft.value = null;
      toast(url ? "The URL was changed." : `${fn.name} has a URL.`);
    } catch (error) {
      failed.value = error as Error;
    }
  }
  async function remove() {
    const isSure = await confirm({
      title: `Remove the URL of ${fn.name}?`,
      text: "Nobody reaches the function there any more. Calls over the API go on.",
      verb: "Remove",
    });
    if (!isSure) return;
    try {
      await call("DELETE", path);
      draft.value = null;
      await again();
    } catch (error) {
      toastError(error);
    }
  }
  async function reveal(): Promise<string> {
    return (await get<FunctionUrl>(path, { reveal: true })).webhook?.secret ?? "";
  }
  const shown = draft.value ?? (url ? rulesOf(url) : null);
  return html`
    <form class="card" aria-labelledby="url" onSubmit=${save}>
      <header><h2 id="url">URL</h2>${!isReadOnly &&
        html`<div class="actions">${
          url && html`<button class="button" type="button" onClick=${remove}>Remove</button>`
        }${
          // Two separate buttons: if one button changed its action during a press, the press would
          // save.
          shown
            ? html`<button class="button primary" type="submit" key="save" aria-disabled=${
              draft.value === null
            }>Save</button>`
            : html`<button class="button" type="button" key="give" onClick=${() => {
              draft.value = NEW;
            }}>Give it a URL</button>`}</div>`}</header>
      <div class="inside">${url && html`
        <p class="field">
          <${Copy} text=${addressOf(url)} label="URL" />
        </p>
        <${Refusals} of=${url} />
      `}
      <${Form} of=${failed.value}>
      ${shown
        ? html`
          <${Rules} of=${shown} url=${url} onReveal=${reveal} isReadOnly=${isReadOnly}
            change=${(
              part: Partial<NewFunctionUrl>,
            ) => {
              draft.value = { ...shown, ...part };
            }} />
        `
        : html`<p class="muted">It has no URL: it is called over the API alone.</p>`}</${Form}></div>
    </form>
  `;
}
