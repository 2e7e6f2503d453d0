// All runtimes.
import { html } from "../html.ts";
import { get } from "../api.ts";
import { Copy } from "../parts/controls/copy.ts";
import { useFetched, Waiting } from "../parts/lists/fetched.ts";
import { count } from "../parts/text/format.ts";
import { type Column, List } from "../parts/lists/list.ts";
import { Notice } from "../parts/lists/notice.ts";
import { Belongs } from "../parts/resources/runtime.ts";
import { Ago } from "../parts/text/time.ts";
import { href } from "../router.ts";
import type { Runtime, RuntimeList } from "../wire.ts";

const COLUMNS: Column[] = [
  { name: "Name", width: "minmax(12rem, 1fr)" },
  { name: "Files", width: "8rem", class: "wide" },
  { name: "Isolation", width: "6rem", class: "wide" },
  { name: "Network", width: "6rem", class: "roomy" },
  { name: "Belongs to", width: "7rem" },
  { name: "Made", width: "6rem", class: "right" },
];

function Row({ runtime, tabindex }: { runtime: Runtime; tabindex: number }) {
  const image = runtime.image ?? runtime.packages ?? runtime.base_image;
  return html`
    <span role="cell" class="name"><div><a href=${href(["runtimes", runtime.name])}
          tabindex=${tabindex}>${runtime.name}</a><small>${runtime.kind}</small></div></span>
    <span role="cell" class="small muted wide clip">${image === null
      ? "the host's own"
      : html`<code>${image.slice(0, 12)}</code>`}</span>
    <span role="cell" class="small wide">${runtime.isolation}</span>
    <span role="cell" class="small roomy">${runtime.network}</span>
    <span role="cell" class="small"><${Belongs} of=${runtime} /></span>
    <span role="cell" class="num small right">${!runtime.built_in &&
      html`<${Ago} at=${runtime.created_at} />`}</span>
  `;
}

export default function Runtimes() {
  const { value, problem, again } = useFetched(
    (signal) => get<RuntimeList>("api/runtimes", {}, signal),
    [],
  );
  const all = value.value?.runtimes;
  const isOwn = all?.some((runtime) => !runtime.built_in);
  return html`<div class="bar"><h1>Runtimes</h1><span class="muted num" role="status">${
    all && count(all.length)
  }</span></div>
    ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
    ${
    all
      ? html`
        <${List} label="Runtimes" columns=${COLUMNS} items=${all}
          keyOf=${(runtime: Runtime) => runtime.id || runtime.name} cells=${(
            runtime: Runtime,
            tabindex: number,
          ) => html`<${Row} runtime=${runtime} tabindex=${tabindex} />`} />
                ${!isOwn && html`
                  <div class="empty teach">
                    <p>A runtime of your own brings files and packages:</p>
                    <${Copy} text="quiltfn runtimes add etl --kind python --dir ./etl" />
                  </div>
                `}
      `
      : !problem.value && html`<${Waiting} />`
  }`;
}
