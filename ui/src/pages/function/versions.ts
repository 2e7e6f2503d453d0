// All versions of a function: their changes, comparisons, and rollback.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { elsewhereSaid, namesOf } from "../../aliases.ts";
import { get } from "../../api.ts";
import { type Difference, differences, summary } from "../../comparing.ts";
import { failures, tell } from "../../current.ts";
import { html } from "../../html.ts";
import { visible } from "../../parts/text/ansi.ts";
import { Code } from "../../parts/controls/code.ts";
import { useFetched, Waiting } from "../../parts/lists/fetched.ts";
import { Notice } from "../../parts/lists/notice.ts";
import { revealGrowing } from "../../parts/controls/reveal.ts";
import { useSettling } from "../../parts/controls/settling.ts";
import { Ago } from "../../parts/text/time.ts";
import { note, route } from "../../router.ts";
import { rollback } from "../../saving.ts";
import { may } from "../../scope.ts";
import type { Alias, AliasList, Function, RuntimeList, Version } from "../../wire.ts";
import { changedPaths } from "../../version_files.ts";
import { Aliases } from "./aliases.ts";
import { FileDifferences } from "./file_differences.ts";
import { Notices } from "./notices.ts";
import { More, usePaged } from "./paged.ts";

const NAMED = 10;

/** The version to compare with: the current one. The current version is compared with the one
 * before it or, if it is the first, the one after it. `all`: newest first.
 */
export function comparedWith(
  all: readonly Pick<Version, "version">[],
  n: number,
  current: number,
): number {
  const of = all[n]?.version ?? current;
  return of === current ? (all[n + 1] ?? all[n - 1])?.version ?? of : current;
}

/** The changes of a version; with file names only for the newest versions. */
function Changed({ of, before, isNewest }: {
  of: Version;
  before: Version | undefined;
  isNewest: boolean;
}) {
  const { function_id: id, version } = of;
  const isAsked = isNewest && before !== undefined && before.image_digest !== of.image_digest;
  const { value } = useFetched(
    () => isAsked ? changedPaths(id, before.version, version) : Promise.resolve([]),
    [id, version, isAsked],
  );
  return html`${
    summary(before, of, value.value ?? []) ||
    html`<span class="muted">${version === 1 ? "the first" : "–"}</span>`
  }`;
}

/** Whether a version is current, or why it could not start. */
function Standing({ fn, version }: { fn: Function; version: number }) {
  const isCurrent = version === fn.current_version;
  const why = failures(fn.id).value.get(version);
  if (isCurrent ? fn.state === "error" : why) {
    const title = isCurrent ? fn.error_message : why;
    return html`<span class="badge bad" title=${title && visible(title)}>could not start</span>`;
  }
  const serves = fn.state === "active" && !elsewhereSaid(fn);
  return isCurrent && html`<span class="badge">${serves ? "serves" : "current"}</span>`;
}

/** The actions for a version. The place of a missing button stays empty, so that no other button
 * moves under the pointer.
 */
function Actions({ fn, of, isBusy, onCompare, onServe }: {
  fn: Function;
  of: Version;
  isBusy: boolean;
  onCompare: () => void;
  onServe: () => void;
}) {
  return html`
    <div class="actions"><button class="button" type="button" aria-disabled=${isBusy}
        onClick=${() => isBusy || onCompare()}
        title=${of.version === fn.current_version
          ? "Compares the current version with the one before it"
          : `Compares the current version, v${fn.current_version}, with this one`}
        aria-label=${`Compare version ${of.version}`}>Compare</button>${may("write") &&
          (of.version === fn.current_version
            ? html`<span class="button held" aria-hidden="true">Serve</span>`
            : html`
              <button class="button" type="button" aria-disabled=${isBusy} onClick=${() =>
                isBusy || onServe()}
                aria-label=${`Serve version ${of.version}`}>Serve</button>
            `)}</div>
  `;
}

function Row({ fn, of, aliases, before, isNewest, isCompared, ...doing }: {
  fn: Function;
  of: Version;
  aliases: readonly Alias[];
  before: Version | undefined;
  isNewest: boolean;
  isCompared: boolean;
  isBusy: boolean;
  onCompare: () => void;
  onServe: () => void;
}) {
  const why = failures(fn.id).value.get(of.version);
  return html`
    <tr class=${isCompared ? "marked" : ""}>
      <td
        class="num"><b>v${of.version}</b><${Standing} fn=${fn} version=${of.version} />${namesOf(
          aliases,
          of.version,
        ).map((name) =>
          html`<span class="badge plain" title=${`${name}: calls by this alias run on it`} key=${name}>${name}</span>`
        )}<div class="narrow small muted"><${Ago} at=${of.created_at} /></div></td>
      <td class="num small wide">
        <${Ago} at=${of.created_at} />
      </td>
      <td class="small long">
        <${Changed} of=${of} before=${before} isNewest=${isNewest} />${why &&
          why !== fn.error_message && html`<div class="muted">${visible(why)}</div>`}
      </td>
      <td class="small muted wide long">${of.runtime}</td>
      <td class="right">
        <${Actions} fn=${fn} of=${of} ...${doing} />
      </td>
    </tr>
  `;
}

function Table({ of }: { of: readonly Difference[] }) {
  const cell = (text: string | null) => text ?? html`<span class="muted">–</span>`;
  return html`
    <div class="scrolls">
      <table class="table">
        <thead>
          <tr>
            <th>What</th>
            <th>Before</th>
            <th>After</th>
          </tr>
        </thead>
        <tbody>${of.map(({ name, before, after }) =>
          html`
            <tr key=${name}>
              <td>${name}</td>
              <td>${cell(before)}</td>
              <td>${cell(after)}</td>
            </tr>
          `
        )}</tbody>
      </table>
    </div>
  `;
}

function Pick({ label, all, value, current, onValue }: {
  label: string;
  all: readonly Version[];
  value: number;
  current: number;
  onValue: (version: number) => void;
}) {
  return html`
    <label
      class="chosen-version">${label} <select class="text" value=${value} onChange=${(
        event: Event,
      ) => onValue(Number((event.target as HTMLSelectElement).value))}>${all.map(({ version }) =>
        html`<option value=${version} key=${version} selected=${version === value}>v${version}${
          version === current ? " (current)" : ""
        }</option>`
      )}</select></label>
  `;
}

function Comparison({ id, all, from, to, current, onChange }: {
  id: string;
  current: number;
  all: readonly Version[];
  from: Version;
  to: Version;
  onChange: (from: number, to: number) => void;
}) {
  const { value } = useFetched((signal) => get<RuntimeList>("api/runtimes", {}, signal), []);
  const kind = value.value?.runtimes.find((runtime) => runtime.name === to.runtime)?.kind ??
    "shell";
  const found = differences(from, to);
  const isOtherCode = from.image_digest !== to.image_digest;
  return html`
    <section class="card after differs" aria-labelledby="comparison">
      <header class="wraps"
      >
        <h2 id="comparison">What differs</h2>
        <${Pick} label="from" all=${all} current=${current} value=${from.version} onValue=${(
          n: number,
        ) => onChange(n, to.version)} />
        <${Pick} label="to" all=${all} current=${current} value=${to.version} onValue=${(
          n: number,
        ) => onChange(from.version, n)} />
      </header>
      ${found.length > 0 && html`<${Table} of=${found} />`}
      ${!isOtherCode && found.length === 0 && from.handler === to.handler &&
        html`<p class="inside muted">Nothing differs.</p>`}
      ${from.handler !== to.handler && html`
        <div class="code-head small muted">Handler</div>
        <${Code} text=${to.handler} before=${from.handler} language=${kind}
          label="Handler, with what differs"
          key=${`${from.version}-${to.version}`} />
      `}
      ${isOtherCode &&
        (may("write")
          ? html`<${FileDifferences} id=${id} from=${from.version} to=${to.version} />`
          : html`<p class="inside muted">The files differ; a key with scope write sees how.</p>`)}
      ${isOtherCode &&
        html`
          <p
            class="inside small muted">Files of v${from.version}: <span class="mono">${from
              .image_digest}</span><br />Files of v${to.version}: <span class="mono">${to
              .image_digest}</span></p>
        `}
    </section>
  `;
}

export function Versions({ fn }: { fn: Function }) {
  const list = usePaged<Version>(`api/functions/${fn.id}/versions`, "versions", [
    fn.id,
    fn.current_version,
    fn.updated_at,
  ]);
  const { all, problem } = list;
  const { value, again, problem: unheard } = useFetched(
    (signal) => get<AliasList>(`api/functions/${fn.id}/aliases`, {}, signal),
    [fn.id, fn.current_version, fn.updated_at], // a rollback moves aliases
  );
  const aliases = value.value?.aliases;
  const query = route.peek().query;
  const from = useSignal(Number(query.get("from")));
  const to = useSignal(Number(query.get("to")));
  const serving = useSettling();
  const compared = useRef<HTMLDivElement>(null);
  const asked = useSignal(0); // the number of comparisons requested
  useEffect(() => {
    if (asked.value && compared.current) return revealGrowing(compared.current);
  }, [asked.value]);
  function compare(first: number, second: number) {
    from.value = first;
    to.value = second;
    note({ from: first, to: second });
  }
  function compareOne(n: number) {
    const of = all?.[n];
    if (!of) return;
    compare(comparedWith(all, n, fn.current_version), of.version);
    asked.value++;
  }
  // The current version may not be on the first pages.
  const oldest = all?.at(-1)?.version ?? 0;
  const isMissing = list.cursor !== null &&
    [from.value, to.value].some((version) => version > 0 && version < oldest);
  useEffect(() => {
    if (isMissing) list.more(list.cursor);
  }, [isMissing, oldest]);
  const back = (version: number) =>
    serving.run(() => rollback(fn, version).catch((error) => tell(fn.id, error)));
  const numbered = new Map(all?.map((each) => [each.version, each]));
  const [first, second] = [numbered.get(from.value), numbered.get(to.value)];
  return html`
    ${problem && html`<${Notice} of=${problem} onRetry=${() => list.more()} />`}
    ${!all ? html`<${Waiting} />` : html`
      <section class="card" aria-labelledby="versions">
        <header><h2 id="versions">Versions</h2
            ><span class="muted small wide">A version never changes. Serve sends calls and aliases of the current one to it, if it can start.</span
            ></header>
        <div class="scrolls">
          <table class="table">
            <thead>
              <tr>
                <th>Version</th>
                <th class="wide">Created</th>
                <th>Changed</th>
                <th class="wide">Runtime</th>
                <th><span class="hidden-visually">What can be done</span></th>
              </tr>
            </thead>
            <tbody>${all.map((each, n) =>
              html`
                <${Row} fn=${fn} of=${each} aliases=${aliases ?? []} before=${all[n + 1]}
                  isNewest=${n < NAMED} key=${each
                    .version}
                  isCompared=${each === first || each === second} onCompare=${() => compareOne(n)}
                  isBusy=${serving.isBusy.value} onServe=${() => back(each.version)} />
              `
            )}</tbody>
          </table>
        </div>
        <${More} of=${list} />
      </section>
    `}
    <div ref=${compared}>${all && first && second &&
      html`
        <${Comparison} id=${fn.id} all=${all} from=${first} to=${second}
          current=${fn.current_version} onChange=${compare} />
      `}</div>
    <div class="after">
      <${Notices} fn=${fn} section="versions" />
    </div>
    ${unheard.value && html`<${Notice} of=${unheard.value} onRetry=${again} />`}
    ${all && aliases && html`
      <${Aliases} fn=${fn} all=${aliases} versions=${all.map(({ version }) => version)}
        again=${again} />
    `}
  `;
}
