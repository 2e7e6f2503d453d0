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

function Row({ one, tabindex }: { one: Runtime; tabindex: number }) {
  const image = one.image ?? one.packages ?? one.base_image;
  return html`
    <span role="cell" class="name"><div><a href=${href(["runtimes", one.name])}
          tabindex=${tabindex}>${one.name}</a><small>${one.kind}</small></div></span>
    <span role="cell" class="small muted wide clip">${image === null
      ? "the host's own"
      : html`<code>${image.slice(0, 12)}</code>`}</span>
    <span role="cell" class="small wide">${one.isolation}</span>
    <span role="cell" class="small roomy">${one.network}</span>
    <span role="cell" class="small"><${Belongs} of=${one} /></span>
    <span role="cell" class="num small right">${!one.built_in &&
      html`<${Ago} at=${one.created_at} />`}</span>
  `;
}

export default function Runtimes() {
  const { value, problem, again } = useFetched(
    (signal) => get<RuntimeList>("api/runtimes", {}, signal),
    [],
  );
  const all = value.value?.runtimes;
  const isOwn = all?.some((one) => !one.built_in);
  return html`<div class="bar"><h1>Runtimes</h1><span class="muted num" role="status">${
    all && count(all.length)
  }</span></div>
    ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
    ${
    all
      ? html`
        <${List} label="Runtimes" columns=${COLUMNS} items=${all}
          keyOf=${(one: Runtime) => one.id || one.name} cells=${(one: Runtime, tabindex: number) =>
            html`<${Row} one=${one} tabindex=${tabindex} />`} />
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
