// How a function gets a new version: with the files of the version that serves, unless others are
// wanted, although the API gives it those that its runtime has by now.
import { elsewhereSaid, madeCurrentSaid, sameAgain, sharesSaid } from "./aliases.ts";
import { call, get, pages, Refused } from "./api.ts";
import { closed, comingVersion, FunctionFailed, show } from "./current.ts";
import { confirm } from "./parts/controls/confirm.ts";
import { counted } from "./parts/text/format.ts";
import { type File, tar } from "./parts/resources/tar.ts";
import { toast } from "./parts/controls/toast.ts";
import { functions } from "./store.ts";
import { editedFiles } from "./version_files.ts";
import type {
  Function,
  FunctionChanges,
  Image,
  NewRuntime,
  Runtime,
  RuntimeList,
  Version,
  VersionPage,
} from "./wire.ts";

/** What a function runs with, and what its next version would get. */
export interface Standing {
  served: Version;
  /** The number of its newest version, which need not serve. */
  newest: number;
  /** None where it was removed. */
  runtime: Runtime | undefined;
}

export async function standingOf(one: Function, signal?: AbortSignal): Promise<Standing | null> {
  const { runtimes } = await get<RuntimeList>("api/runtimes", {}, signal);
  let newest = 0;
  const all = pages<VersionPage>(`api/functions/${one.id}/versions`, { limit: 100 }, signal);
  for await (const { versions } of all) {
    newest ||= versions[0]?.version ?? 0;
    const served = versions.find((each) => each.version === one.current_version);
    const runtime = runtimes.find((each) => each.name === one.runtime);
    if (served) return { served, newest, runtime };
  }
  return null;
}

/** Whether a new version would get other files than the version that serves has. */
export function hasOtherFiles({ served, runtime }: Standing): boolean {
  return runtime !== undefined && !runtime.built_in &&
    runtime.image_digest !== served.image_digest;
}

/** Who besides the function gets what is changed of its runtime, in words; empty: nobody. */
export function othersWith(one: Function, runtime: Runtime): string {
  if (runtime.shared) return "other tenants";
  const others = [...functions.peek().values()].filter((other) =>
    other.runtime === runtime.name && other.id !== one.id
  );
  return others.length === 0 ? "" : counted(others.length, "other function");
}

/** What becomes of the function's files and of the rest of its runtime where only its settings are
 * changed, and how; null: they stay, and nothing is done for it.
 */
export function aboutFiles(
  one: Function,
  standing: Standing,
): { said: string; how?: string } | null {
  const { served: { version }, newest, runtime } = standing;
  if (runtime === undefined) return null;
  if (!hasOtherFiles(standing)) {
    return one.runtime_outdated
      ? { said: `A new version gets runtime ${runtime.name} as it is now.` }
      : null;
  }
  return othersWith(one, runtime)
    ? {
      said: `Runtime ${runtime.name}, which others use as well, has other files than version ` +
        `${version}: a new version gets those of the runtime.`,
    }
    : {
      said: `You are editing the code of version ${version}; saving makes version ${newest + 1}.`,
      how:
        `Runtime ${runtime.name} has the files of another version. Saving first gives it those ` +
        `of version ${version}.`,
    };
}

/** The digests of the images whose files are at /app. */
interface Images {
  image: string | null;
  packages?: string | null;
}

/** The runtime with other files; what it has besides stays as it is. */
export function withImages(of: Runtime, { image, packages = null }: Images): NewRuntime {
  const { name, kind, command, environment, isolation, network, writable_paths, shared } = of;
  return {
    name,
    kind: kind as "shell",
    image,
    ...(packages !== null && {
      packages,
      packages_key: packages === of.packages ? of.packages_key ?? null : null,
    }),
    ...(of.base_image !== null && { base_image: of.base_image }),
    environment,
    isolation: isolation as "crun",
    network: network as "none",
    writable_paths,
    process_limit: of.process_limit,
    tmp_limit_mb: of.tmp_limit_mb,
    file_limit_mb: of.file_limit_mb,
    open_files_limit: of.open_files_limit,
    ...(kind === "custom" && { command }),
    ...(shared && { shared }),
  };
}

const OF_IMAGES = "sha256:"; // else a digest names the files of the host, or a base image alone

function imagesOf(digest: string): Images {
  const all = digest.startsWith(OF_IMAGES) ? digest.slice(OF_IMAGES.length).split("+") : [];
  const [image, packages] = all.filter((one) => !one.startsWith("base:"));
  return { image: image ?? null, packages: packages ?? null };
}

async function upload(files: readonly File[]): Promise<string> {
  const options = { body: tar(files), type: "application/x-tar" };
  return (await call<Image>("POST", "api/runtimes/images", options)).digest;
}

/** Makes a version, after its runtime has got images; undefined: what it has. A runtime whose
 * version was refused gets back what it had.
 */
async function put(
  one: Function,
  runtime: Runtime | undefined,
  images: Images | undefined,
  changes: FunctionChanges,
): Promise<Function> {
  const path = `api/functions/${one.id}`;
  if (runtime === undefined || images === undefined) {
    return await call<Function>("PUT", path, { body: changes });
  }
  const body = { runtime: runtime.name, ...changes };
  await call("POST", "api/runtimes", { body: withImages(runtime, images) });
  try {
    return await call<Function>("PUT", path, { body });
  } catch (error) {
    if (error instanceof Refused && error.status >= 400 && error.status < 500) {
      await call("POST", "api/runtimes", { body: withImages(runtime, runtime) });
    }
    throw error;
  }
}

/** Which version is made and not ready yet is told on the page of the function meanwhile. */
async function coming<T>(one: Function, version: number, work: () => Promise<T>): Promise<T> {
  comingVersion(one.id).value = version;
  try {
    return await work();
  } finally {
    comingVersion(one.id).value = null;
  }
}

/** Makes a version with these changes, and with `edits` (texts by path) among its files. Null where
 * the reader did not agree to what else that does.
 */
export async function update(
  one: Function,
  changes: FunctionChanges,
  edits: ReadonlyMap<string, string>,
): Promise<Function | null> {
  const standing = await standingOf(one);
  const next = (standing?.newest ?? one.current_version) + 1;
  const runtime = standing?.runtime;
  // Another runtime comes with its own files.
  if (standing === null || runtime === undefined || changes.runtime !== undefined) {
    return await coming(one, next, () => put(one, undefined, undefined, changes));
  }
  const others = othersWith(one, runtime);
  let images: Images | undefined;
  if (edits.size > 0) {
    const title = `Change ${[...edits.keys()].join(", ")}?`;
    const text = `Runtime ${runtime.name} gets the files of version ${standing.served.version} ` +
      `with what you changed. ${theyGet(others)}`;
    if (others && !(await isAgreed(title, text))) return null;
    images = { image: await upload(await editedFiles(one, edits)) };
  } else if (hasOtherFiles(standing)) {
    const title = `Take the files of ${runtime.name}?`;
    if (others && !(await isAgreed(title, aboutFiles(one, standing)?.said ?? ""))) return null;
    if (!others) images = imagesOf(standing.served.image_digest);
  }
  return await coming(one, next, () => put(one, runtime, images, changes));
}

const isAgreed = (title: string, text: string) => confirm({ title, text, verb: "Save and deploy" });

const theyGet = (others: string) =>
  `${others.charAt(0).toUpperCase()}${others.slice(1)} will have them from the next update on.`;

/** Makes a version that has exactly these files, if the reader agrees, and deploys it. */
export async function replaceFiles(
  one: Function,
  runtime: Runtime,
  files: readonly File[],
): Promise<void> {
  const others = othersWith(one, runtime);
  const isSure = await confirm({
    title: `Replace the files of ${runtime.name}?`,
    text: `${counted(files.length, "file")} will be all that the image has: ` +
      `${files.slice(0, 5).map(({ path }) => path).join(", ")}${files.length > 5 ? ", …" : ""}. ${
        others && theyGet(others)
      } Earlier versions keep theirs.`,
    verb: "Replace and deploy",
  });
  if (!isSure) return;
  const newest = (await standingOf(one))?.newest ?? one.current_version;
  const image = await upload(files);
  await settle(one, await coming(one, newest + 1, () => put(one, runtime, { image }, {})), true);
}

/** Makes an earlier version current, and gives it all calls; its undo takes that back. */
export function rollback(one: Function, version: number): Promise<void> {
  return pointTo(one, version);
}

/** Takes back a change that has made `now` of the function `before`. If calls ran on other versions
 * than the current one, they do so again: their versions are set first, so that none runs on the
 * version that was current.
 */
async function undo(now: Function, before: Function): Promise<void> {
  const was = before.default_alias, is = now.default_alias;
  if (was === undefined || !elsewhereSaid(before)) {
    return await rollback(now, before.current_version);
  }
  if (is === undefined || sharesSaid(is) !== sharesSaid(was)) {
    await call("PUT", `api/functions/${now.id}/aliases/${was.name}`, { body: sameAgain(was) });
  }
  await pointTo(now, before.current_version, { default_alias: "keep" });
}

async function pointTo(
  one: Function,
  version: number,
  query: Readonly<Record<string, string>> = {},
): Promise<void> {
  const path = `api/functions/${one.id}/rollback`;
  const now = await coming(
    one,
    version,
    () => call<Function>("POST", path, { body: { version }, query }),
  );
  show(now);
  closed(one.id).value = null;
  // A version that cannot start leaves the one that served, and the page of the function says why.
  if (now.current_version !== version) return;
  toast(madeCurrentSaid(now), { undo: () => undo(now, one) });
}

/** Deploys what is not active yet, and tells which version it is now. */
export async function settle(
  before: Function,
  updated: Function,
  isDeployed: boolean,
): Promise<void> {
  let now = updated;
  if (isDeployed && now.state !== "active") {
    now = await call<Function>("POST", `api/functions/${now.id}/deploy`);
  }
  show(now);
  if (now.error_message) throw new FunctionFailed(now);
  const is = !isDeployed ? "is saved" : `is ${now.state}`;
  const said = isDeployed && now.state === "active"
    ? madeCurrentSaid(now)
    : `Version ${now.current_version} of ${now.name} ${is}.`;
  toast(said, { undo: () => undo(now, before) });
}
