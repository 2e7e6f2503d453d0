// The files of a function's versions: lists, contents, and differences.
import { pages, send } from "./api.ts";
import { withoutCompiled } from "./compiled.ts";
import type { File } from "./parts/resources/tar.ts";
import type { Function, RuntimeFile, RuntimeFilePage } from "./wire.ts";

const LISTED = 100;
/** The maximum number of files to fetch, per page and in total, compiled files included. */
const FETCHED = 250, FETCHED_MAX = 1000;
/** The maximum size to show and edit: of one file, and of all files together. */
const TEXT_MAX_BYTES = 256 * 1024, EDITED_MAX_BYTES = 4 * 1024 * 1024;
/** The maximum number of files of equal size that are read for a comparison. */
const READ_MAX = 40;

export interface Listing {
  files: readonly RuntimeFile[];
  /** Whether the list is complete. */
  isWhole: boolean;
}

/** A file that differs between two versions, with both contents; null: the version lacks the
 * file.
 */
export interface ChangedFile {
  path: string;
  before: RuntimeFile | null;
  after: RuntimeFile | null;
}

const filesOf = (id: string, version: number) => `api/functions/${id}/versions/${version}/files`;

export async function listFiles(
  id: string,
  version: number,
  signal?: AbortSignal,
): Promise<Listing> {
  const found: RuntimeFile[] = [];
  const query = { limit: FETCHED };
  for await (const page of pages<RuntimeFilePage>(filesOf(id, version), query, signal)) {
    found.push(...page.files);
    const files = withoutCompiled(found);
    if (page.next_cursor === null) {
      return { files: files.slice(0, LISTED), isWhole: files.length <= LISTED };
    }
    if (files.length > LISTED || found.length >= FETCHED_MAX) break;
  }
  return { files: withoutCompiled(found).slice(0, LISTED), isWhole: false };
}

export async function readFile(
  id: string,
  version: number,
  path: string,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const encoded = path.split("/").map(encodeURIComponent).join("/");
  const options = signal ? { signal } : {};
  const response = await send("GET", `${filesOf(id, version)}/${encoded}`, options);
  return new Uint8Array(await response.arrayBuffer());
}

/** The content of a file; null if it is not text, or too long to show. */
export function textOf(content: Uint8Array): string | null {
  if (content.length > TEXT_MAX_BYTES || content.includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
  } catch {
    return null;
  }
}

/** Why the files cannot be edited here; null: they can. An edit uploads all files again. */
export function whyNotEdited({ files, isWhole }: Listing): string | null {
  if (!isWhole) return `There are more than ${LISTED} files. Upload them instead.`;
  if (files.some((file) => file.is_link)) return "There are links among the files.";
  const size = files.reduce((sum, file) => sum + file.size_bytes, 0);
  return size > EDITED_MAX_BYTES ? "The files are too large. Upload them instead." : null;
}

/** The file to open first: the only file, or the one that the handler names; null: none. */
export function mainOf(files: readonly RuntimeFile[], handler: string): string | null {
  const shown = files.filter((file) => !file.is_link && file.size_bytes <= TEXT_MAX_BYTES);
  if (files.length === 1) return shown[0]?.path ?? null;
  const module = handler.split(":", 1)[0]?.replaceAll(".", "/");
  return shown.find((file) => file.path.replace(/\.\w+$/, "") === module)?.path ?? null;
}

/** All files of the current version, some with new texts, by path. */
export async function editedFiles(
  fn: Function,
  edits: ReadonlyMap<string, string>,
): Promise<File[]> {
  const listing = await listFiles(fn.id, fn.current_version);
  const why = whyNotEdited(listing);
  if (why) throw new Error(why);
  const gone = [...edits.keys()].find((path) => !listing.files.some((file) => file.path === path));
  if (gone) throw new Error(`Version ${fn.current_version} has no file ${gone}.`);
  return await Promise.all(listing.files.map(async ({ path, is_executable: isExecutable }) => {
    const edited = edits.get(path);
    const content = edited === undefined
      ? await readFile(fn.id, fn.current_version, path)
      : new TextEncoder().encode(edited);
    return { path, isExecutable, content };
  }));
}

/** The line of the file that an error names: "(main.py, line 1)", "main.mjs:3", or a line without a file
 * name.
 */
export function lineIn(error: Error | null, path: string): number | null {
  const name = path.split("/").pop() ?? "";
  const text = error?.message ?? "";
  const at = text.lastIndexOf(name);
  const found = at < 0
    ? /\w\.\w+"?(?:, line |:)\d/.test(text) ? null : /\bline (\d+)/.exec(text)
    : /^"?(?:, line |:)(\d+)/.exec(text.slice(at + name.length)) ?? /\bline (\d+)/.exec(text);
  return found ? Number(found[1]) : null;
}

/** The language of a file by its name. */
export function languageOf(path: string): string {
  if (/\.py$/i.test(path)) return "python";
  return /\.[cm]?[jt]s$/i.test(path) ? "node" : "shell";
}

/** Files that certainly differ, and those whose contents must be compared. */
export function compare(
  before: readonly RuntimeFile[],
  after: readonly RuntimeFile[],
): { changed: ChangedFile[]; alike: ChangedFile[] } {
  const old = new Map(before.map((file) => [file.path, file]));
  const now = new Map(after.map((file) => [file.path, file]));
  const changed: ChangedFile[] = [];
  const alike: ChangedFile[] = [];
  for (const path of [...new Set([...old.keys(), ...now.keys()])].sort()) {
    const file = { path, before: old.get(path) ?? null, after: now.get(path) ?? null };
    const differs = file.before?.size_bytes !== file.after?.size_bytes ||
      file.before?.is_link !== file.after?.is_link ||
      file.before?.is_executable !== file.after?.is_executable;
    (differs ? changed : alike).push(file);
  }
  return { changed, alike };
}

const listings = new Map<string, Promise<Listing>>(); // a version never changes
const LISTINGS_KEPT = 200;

function listedOnce(id: string, version: number): Promise<Listing> {
  const key = `${id} ${version}`;
  const known = listings.get(key);
  if (known) return known;
  const asked = listFiles(id, version);
  listings.set(key, asked);
  asked.catch(() => listings.delete(key));
  const [oldest] = listings.keys();
  if (listings.size > LISTINGS_KEPT && oldest) listings.delete(oldest);
  return asked;
}

/** The paths of the files that differ between two versions with different images, as far as that is
 * known without reading the files.
 */
export async function changedPaths(id: string, from: number, to: number): Promise<string[]> {
  const [before, after] = await Promise.all([listedOnce(id, from), listedOnce(id, to)]);
  const { changed, alike } = compare(before.files, after.files);
  const isOne = changed.length === 0 && alike.length === 1 && before.isWhole && after.isWhole;
  return (isOne ? alike : changed).map((file) => file.path);
}

/** The files that differ between two versions, by path, and whether that is certain. */
export async function changesOf(
  id: string,
  from: number,
  to: number,
  signal: AbortSignal,
): Promise<{ changed: ChangedFile[]; isSure: boolean }> {
  const [before, after] = await Promise.all([
    listFiles(id, from, signal),
    listFiles(id, to, signal),
  ]);
  const { changed, alike } = compare(before.files, after.files);
  const readable = alike.filter((file) =>
    !file.before?.is_link && (file.before?.size_bytes ?? 0) <= TEXT_MAX_BYTES
  );
  for (const file of readable.slice(0, READ_MAX)) {
    const [old, now] = await Promise.all([
      readFile(id, from, file.path, signal),
      readFile(id, to, file.path, signal),
    ]);
    if (old.some((byte, n) => byte !== now[n])) changed.push(file);
  }
  changed.sort((a, b) => (a.path < b.path ? -1 : 1));
  const isSure = before.isWhole && after.isWhole && readable.length <= READ_MAX &&
    readable.length === alike.length;
  return { changed, isSure };
}
