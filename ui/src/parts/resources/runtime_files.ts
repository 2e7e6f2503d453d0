// The content of a runtime: its files, page by page, and its packages.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get } from "../../api.ts";
import { withoutCompiled } from "../../compiled.ts";
import { html } from "../../html.ts";
import type { RuntimeFile, RuntimeFilePage, RuntimePackageList } from "../../wire.ts";
import { visible } from "../text/ansi.ts";
import { Endless } from "../lists/endless.ts";
import { useFetched, Waiting } from "../lists/fetched.ts";
import { bytes, count } from "../text/format.ts";
import { Notice } from "../lists/notice.ts";

/** `path`: the path of the runtime. */
export function Files({ path }: { path: string }) {
  const list = useSignal<Endless<RuntimeFile, RuntimeFilePage> | null>(null);
  useEffect(() => {
    const mine = list.value = new Endless<RuntimeFile, RuntimeFilePage>(
      `${path}/files`,
      {},
      (file) => file.path,
      (page) => ({ items: withoutCompiled(page.files), next: page.next_cursor }),
    );
    return () => mine.end();
  }, [path]);
  const all = list.value;
  const files = all?.items.value ?? [];
  const isWhole = all?.isWhole.value ?? false;
  return html`
    <section class="card" aria-labelledby="files">
      <header><h2 id="files">Files</h2><span class="muted small num">${all &&
        `${count(files.length)}${isWhole ? "" : " so far"}`}</span></header>
      ${all?.problem.value &&
        html`<${Notice} of=${all.problem.value} onRetry=${() => all.more()} />`}
      ${files.length > 0
        ? html`
          <table class="table files">
            <tbody>${files.map((file) =>
              html`
                <tr key=${file.path}>
                  <td class="mono small">${visible(file.path)}</td>
                  <td class="small muted wide">${flagOf(file)}</td>
                  <td class="num small right">${file.is_link ? "–" : bytes(file.size_bytes)}</td>
                </tr>
              `
            )}</tbody>
          </table>
        `
        : isWhole
        ? html`<p class="empty small">None.</p>`
        : !all?.problem.value && html`<${Waiting} />`}
      ${files.length > 0 && !isWhole && html`
        <button class="more" type="button" disabled=${all?.isBusy.value}
          onClick=${() => all?.more()}>Show more files</button>
      `}
    </section>
  `;
}

const flagOf = (file: RuntimeFile): string =>
  file.is_link ? "link" : file.is_executable ? "executable" : "";

export function Packages({ path }: { path: string }) {
  const { value, problem, again } = useFetched(
    (signal) => get<RuntimePackageList>(`${path}/packages`, {}, signal),
    [path],
  );
  const found = value.value;
  return html`
    <section class="card" aria-labelledby="packages">
      <header><h2 id="packages">Packages</h2><span class="muted small num">${found &&
        `${count(found.packages.length)}${found.is_complete ? "" : ", and more"}`}</span></header>
      ${problem.value
        ? html`<${Notice} of=${problem.value} onRetry=${again} />`
        : !found
        ? html`<${Waiting} />`
        : found.packages.length === 0
        ? html`<p class="empty small">None beside its files.</p>`
        : html`
          <table class="table">
            <tbody>${found.packages.map((pkg) =>
              html`
                <tr key=${`${pkg.kind} ${pkg.name}`}>
                  <td>${visible(pkg.name)}</td>
                  <td class="num muted">${visible(pkg.version)}</td>
                  <td class="small muted wide">${pkg.kind}</td>
                </tr>
              `
            )}</tbody>
          </table>
        `}
    </section>
  `;
}
