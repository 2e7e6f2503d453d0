// The files that differ between two versions of a function, with their changed lines.
import { type ChangedFile, changesOf, languageOf, readFile, textOf } from "../../version_files.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/text/ansi.ts";
import { Code } from "../../parts/controls/code.ts";
import { useFetched, Waiting } from "../../parts/lists/fetched.ts";
import { bytes } from "../../parts/text/format.ts";
import { Notice } from "../../parts/lists/notice.ts";

const SHOWN = 10;

interface Texts {
  before: string | null;
  after: string | null;
}

function sizes({ before, after }: ChangedFile): string {
  if (!before) return "added";
  if (!after) return "removed";
  return before.size_bytes === after.size_bytes
    ? bytes(after.size_bytes)
    : `${bytes(before.size_bytes)} → ${bytes(after.size_bytes)}`;
}

function FileDifference(
  { id, from, to, file }: { id: string; from: number; to: number; file: ChangedFile },
) {
  const { value, problem, again } = useFetched<Texts>(async (signal) => {
    const read = async (version: number, has: boolean) =>
      has ? textOf(await readFile(id, version, file.path, signal)) : "";
    const has = (side: ChangedFile["before"]) => side !== null && !side.is_link;
    const [before, after] = await Promise.all([
      read(from, has(file.before)),
      read(to, has(file.after)),
    ]);
    return { before, after };
  }, [id, from, to, file.path]);
  const texts = value.value;
  return html`
    <div class="code-head small"><span class="mono">${visible(file.path)}</span>
      <span class="muted">${sizes(file)}</span></div>
    ${problem.value && html`<${Notice} of=${problem.value} onRetry=${again} />`}
    ${!texts
      ? !problem.value && html`<${Waiting} />`
      : texts.before === null || texts.after === null
      ? html`<p class="inside muted">It is no text, or too long to be shown.</p>`
      : html`
        <${Code} text=${texts.after} before=${texts.before} language=${languageOf(file.path)}
          label=${`${visible(file.path)}, with what differs`} />
      `}
  `;
}

export function FileDifferences({ id, from, to }: { id: string; from: number; to: number }) {
  const { value, problem, again } = useFetched(
    (signal) => changesOf(id, from, to, signal),
    [id, from, to],
  );
  const found = value.value;
  if (problem.value) return html`<${Notice} of=${problem.value} onRetry=${again} />`;
  if (!found) return html`<${Waiting} />`;
  const { changed, isSure } = found;
  const rest = changed.length - SHOWN;
  return html`
    ${changed.slice(0, SHOWN).map((file) =>
      html`<${FileDifference} id=${id} from=${from} to=${to} file=${file} key=${file.path} />`
    )}${rest > 0 &&
      html`<p class="inside muted">${rest} more files differ.</p>`}${changed.length ===
        0 && html`<p class="inside muted">No file differs.</p>`}${!isSure &&
      html`<p class="inside muted">Only the first and the smaller files were compared.</p>`}
  `;
}
