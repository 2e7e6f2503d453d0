// The number of instances of a function.
import { useSignal } from "@preact/signals";
import { call, get } from "../../api.ts";
import { html } from "../../html.ts";
import { Described } from "../../parts/controls/described.ts";
import { Form } from "../../parts/controls/failing.ts";
import { toast } from "../../parts/controls/toast.ts";
import { may } from "../../scope.ts";
import { show } from "../../current.ts";
import type { Function, PoolTarget } from "../../wire.ts";

const targetOf = ({ min_instances, max_instances }: PoolTarget): PoolTarget => ({
  min_instances,
  max_instances,
});

async function scale(fn: Function, target: PoolTarget): Promise<void> {
  const path = `api/elasticity/functions/${fn.id}/pool-target`;
  const headers = { "X-Tenant-Id": fn.tenant_id };
  await call("POST", path, { body: target, headers });
  show(await get<Function>(`api/functions/${fn.id}`));
  const { min_instances: least, max_instances: most } = target;
  toast(`${fn.name} has ${least} to ${most} instances.`, {
    undo: () => scale({ ...fn, ...target }, targetOf(fn)),
  });
}

export function Scaling({ fn }: { fn: Function }) {
  const draft = useSignal<PoolTarget | null>(null);
  const problem = useSignal<Error | null>(null);
  const isReadOnly = !may("write");
  const shown = draft.value ?? targetOf(fn);
  const isChanged = shown.min_instances !== fn.min_instances ||
    shown.max_instances !== fn.max_instances;
  async function save(event: Event) {
    event.preventDefault();
    if (!isChanged) return;
    problem.value = null;
    try {
      await scale(fn, shown);
      draft.value = null;
    } catch (error) {
      problem.value = error as Error;
    }
  }
  const field = (name: keyof PoolTarget, label: string) =>
    html`
      <${Described} shape="PoolTarget" name=${name} label=${label} value=${shown[name]}
        isReadOnly=${isReadOnly} onValue=${(value: number) => {
          draft.value = { ...shown, [name]: value };
        }} />
    `;
  return html`
    <form class="card" aria-labelledby="scaling" onSubmit=${save}>
      <header><h2 id="scaling">Instances</h2
      >${!isReadOnly &&
        html`
          <button class="button primary push" type="submit"
            aria-disabled=${!isChanged}>Save</button>
        `}</header>
      <div class="inside">
        <${Form} of=${problem.value}>
          <div class="settings">${field("min_instances", "At least")}${field(
            "max_instances",
            "At most",
          )}</div>
          </${Form}>
          <p
            class="muted small">It takes effect at once and makes no version. What nobody has called for the time that the
          server allows (its setting <code>idle_s</code>) ends, down to the smallest number; one instance that stands
          costs ${fn.memory_limit_mb} MiB at most, and saves the first call its cold start.</p>
          </div>
          </form>
  `;
}
