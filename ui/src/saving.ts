// Creates a new version of a function with the files of the current version, unless the user chose
// others. By itself, the API would give it the files that its runtime has now.
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

/** The current version of a function, and the basis of its next one. */
export interface Standing {
  served: Version;
  /** The number of its newest version, perhaps not the current one. */
  newest: number;
  /** Undefined if the runtime was removed. */
  runtime: Runtime | undefined;
}

export async function standingOf(fn: Function, signal?: AbortSignal): Promise<Standing | null> {
  const { runtimes } = await get<RuntimeList>("api/runtimes", {}, signal);
  let newest = 0;
  const all = pages<VersionPage>(`api/functions/${fn.id}/versions`, { limit: 100 }, signal);
  for await (const { versions } of all) {
    newest ||= versions[0]?.version ?? 0;
    const served = versions.find((each) => each.version === fn.current_version);
    const runtime = runtimes.find((each) => each.name === fn.runtime);
    if (served) return { served, newest, runtime };
  }
  return null;
}

/** Whether a new version would get files other than the current version's. */
export function hasOtherFiles({ served, runtime }: Standing): boolean {
  return runtime !== undefined && !runtime.built_in &&
    runtime.image_digest !== served.image_digest;
}

/** The others that a change of the function's runtime would affect, in words; empty: nobody. */
export function othersWith(fn: Function, runtime: Runtime): string {
  if (runtime.shared) return "other tenants";
  const others = [...functions.peek().values()].filter((other) =>
    other.runtime === runtime.name && other.id !== fn.id
  );
  return others.length === 0 ? "" : counted(others.length, "other function");
}

/** The effect on the function's files and runtime if only its settings are changed, and the way
 * there; null: no effect.
 */
export function aboutFiles(
  fn: Function,
  standing: Standing,
): { said: string; how?: string } | null {
  const { served: { version }, newest, runtime } = standing;
  if (runtime === undefined) return null;
  if (!hasOtherFiles(standing)) {
    return fn.runtime_outdated
      ? { said: `A new version gets runtime ${runtime.name} as it is now.` }
      : null;
  }
  return othersWith(fn, runtime)
    ? {
      said: `Runtime ${runtime.name}, which others use as well, has other files than version ` +
        `${version}: a new version gets those of the runtime.`,
    }
    : {
      said: `You are editing the code of version ${version}; saving creates version ${newest + 1}.`,
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

/** A copy of the runtime with other files. */
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

const OF_IMAGES = "sha256:"; // other digests are those of the host's files, or of a base image only

function imagesOf(digest: string): Images {
  const all = digest.startsWith(OF_IMAGES) ? digest.slice(OF_IMAGES.length).split("+") : [];
  const [image, packages] = all.filter((part) => !part.startsWith("base:"));
  return { image: image ?? null, packages: packages ?? null };
}

async function upload(files: readonly File[]): Promise<string> {
  const options = { body: tar(files), type: "application/x-tar" };
  return (await call<Image>("POST", "api/runtimes/images", options)).digest;
}

/** Creates a version, after `images`, if any, were set in its runtime. If the version is refused, the
 * runtime's previous images are restored.
 */
async function put(
  fn: Function,
  runtime: Runtime | undefined,
  images: Images | undefined,
  changes: FunctionChanges,
): Promise<Function> {
  const path = `api/functions/${fn.id}`;
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

/** Runs `work`; meanwhile, the function's page shows `version` as the one being created. */
async function coming<T>(fn: Function, version: number, work: () => Promise<T>): Promise<T> {
  comingVersion(fn.id).value = version;
  try {
    return await work();
  } finally {
    comingVersion(fn.id).value = null;
  }
}

/** Creates a version with these changes and with `edits` (texts by path) to its files. Null if the user
 * did not confirm the side effects.
 */
export async function update(
  fn: Function,
  changes: FunctionChanges,
  edits: ReadonlyMap<string, string>,
): Promise<Function | null> {
  const standing = await standingOf(fn);
  const next = (standing?.newest ?? fn.current_version) + 1;
  const runtime = standing?.runtime;
  // Another runtime has its own files.
  if (standing === null || runtime === undefined || changes.runtime !== undefined) {
    return await coming(fn, next, () => put(fn, undefined, undefined, changes));
  }
  const others = othersWith(fn, runtime);
  let images: Images | undefined;
  if (edits.size > 0) {
    const title = `Change ${[...edits.keys()].join(", ")}?`;
    const text = `Runtime ${runtime.name} gets the files of version ${standing.served.version} ` +
      `with what you changed. ${theyGet(others)}`;
    if (others && !(await isAgreed(title, text))) return null;
    images = { image: await upload(await editedFiles(fn, edits)) };
  } else if (hasOtherFiles(standing)) {
    const title = `Use the files of runtime ${runtime.name}?`;
    if (others && !(await isAgreed(title, aboutFiles(fn, standing)?.said ?? ""))) return null;
    if (!others) images = imagesOf(standing.served.image_digest);
  }
  return await coming(fn, next, () => put(fn, runtime, images, changes));
}

const isAgreed = (title: string, text: string) => confirm({ title, text, verb: "Save and deploy" });

const theyGet = (others: string) =>
  `${others.charAt(0).toUpperCase()}${others.slice(1)} will have them from the next update on.`;

/** Creates and deploys a version that has exactly these files, if the user agrees. */
export async function replaceFiles(
  fn: Function,
  runtime: Runtime,
  files: readonly File[],
): Promise<void> {
  const others = othersWith(fn, runtime);
  const isSure = await confirm({
    title: `Replace the files of ${runtime.name}?`,
    text: `The image will contain only ${counted(files.length, "file")}: ` +
      `${files.slice(0, 5).map(({ path }) => path).join(", ")}${files.length > 5 ? ", …" : ""}. ${
        others && theyGet(others)
      } Earlier versions keep theirs.`,
    verb: "Replace and deploy",
  });
  if (!isSure) return;
  const newest = (await standingOf(fn))?.newest ?? fn.current_version;
  const image = await upload(files);
  await settle(fn, await coming(fn, newest + 1, () => put(fn, runtime, { image }, {})), true);
}

/** Makes another version current. The default alias moves to it, and no alias sends invocations to
 * the previous one any more. The toast offers to undo this.
 */
export function rollback(fn: Function, version: number): Promise<void> {
  return pointTo(fn, version);
}

/** Reverts the change from `before` to `now`. If `before` sent invocations to other versions than
 * its current one, their shares are restored first, so that no invocation runs on that current
 * version.
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
  fn: Function,
  version: number,
  query: Readonly<Record<string, string>> = {},
): Promise<void> {
  const path = `api/functions/${fn.id}/rollback`;
  const now = await coming(
    fn,
    version,
    () => call<Function>("POST", path, { body: { version }, query }),
  );
  show(now);
  closed(fn.id).value = null;
  // If the version cannot start, the previous one stays current, and the function's page shows the reason.
  if (now.current_version !== version) return;
  toast(madeCurrentSaid(now), { undo: () => undo(now, fn) });
}

/** Deploys the function if it is not active yet, and shows its version. */
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
