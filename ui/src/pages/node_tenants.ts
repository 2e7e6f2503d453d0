// Tenants, for operators: their resources, and whether they are disabled.
import { call, get } from "../api.ts";
import { html } from "../html.ts";
import { confirm } from "../parts/controls/confirm.ts";
import { useAgain, useFetched } from "../parts/lists/fetched.ts";
import { count } from "../parts/text/format.ts";
import { Problem } from "../parts/lists/problem.ts";
import { toast, toastError } from "../parts/controls/toast.ts";
import type { Tenant, TenantPage } from "../wire.ts";

const EVERY_MS = 10_000;
const MOST = 1000; // maximum tenants shown
const DISABLES = "Its keys and URLs are refused and its instances end. Running invocations end; " +
  "queued ones wait, and schedules are skipped, until you enable it again.";

const ask = (signal: AbortSignal): Promise<TenantPage> =>
  get<TenantPage>("api/tenants", { limit: MOST }, signal);

function Row({ of, again }: { of: Tenant; again: () => Promise<void> }) {
  const { tenant_id: name, disabled: isDisabled } = of;
  async function change() {
    const title = `Disable the tenant ${name}?`;
    if (!isDisabled && !await confirm({ title, text: DISABLES, verb: "Disable" })) return;
    const verb = isDisabled ? "enable" : "disable";
    try {
      await call<Tenant>("POST", `api/tenants/${encodeURIComponent(name)}/${verb}`);
      toast(`Tenant ${name} is ${verb}d.`);
    } catch (error) {
      toastError(error);
    }
    await again();
  }
  return html`
    <tr>
      <td><b>${name}</b></td>
      <td>${isDisabled
        ? html`<span class="badge bad first">disabled</span>`
        : html`<span class="small muted">enabled</span>`}</td>
      <td class="num small right wide">${count(of.functions)}</td>
      <td class="num small right wide">${count(of.valid_keys)}</td>
      <td class="num small right wide">${count(of.calls_in_flight)}</td>
      <td class="right"><button class="button" type="button" onClick=${change}
        aria-label=${`${isDisabled ? "Enable" : "Disable"} ${name}`}>${isDisabled
          ? "Enable"
          : "Disable"}</button></td>
    </tr>
  `;
}

export function Tenants() {
  const { value, problem, again } = useFetched(ask, []);
  useAgain(again, EVERY_MS);
  const page = value.value;
  if (problem.value) return html`<${Problem} of=${problem.value} onRetry=${again} />`;
  if (!page) return null;
  const { tenants, next_cursor: more } = page;
  const said = more ? `the first ${count(tenants.length)}` : count(tenants.length);
  return html`
    <section class="card after" aria-labelledby="tenants">
      <header><h2 id="tenants">Tenants</h2><span class="push muted num">${said}</span></header>
      ${tenants.length > 0
        ? html`
          <div class="scrolls">
            <table class="table" aria-labelledby="tenants">
              <thead>
                <tr>
                  <th>Tenant</th>
                  <th>State</th>
                  <th class="right wide">Functions</th>
                  <th class="right wide">Valid keys</th>
                  <th class="right wide">Invocations</th>
                  <th><span class="hidden-visually">Actions</span></th>
                </tr>
              </thead>
              <tbody>${tenants.map((of) =>
                html`<${Row} of=${of} again=${again} key=${of.tenant_id} />`
              )}</tbody>
            </table>
          </div>
        `
        : html`<p class="empty">No tenants yet</p>`}
    </section>
  `;
}
