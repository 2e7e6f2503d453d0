// The notice for a function whose runtime has changed since its current version was created.
import { othersWith, type Standing } from "./saving.ts";
import type { Function, Version } from "./wire.ts";

/** "runtime": somebody replaced the runtime. Otherwise the numbers of newer versions, if any: the
 * runtime has the files of one of the function's own versions, which this dashboard saved there,
 * and no other function uses it.
 */
export type Outdated = "runtime" | readonly number[];

/** `versions`: at least the newest versions of the function. */
export function outdatedBy(
  fn: Function,
  { served, runtime }: Standing,
  versions: readonly Version[],
): Outdated {
  if (runtime === undefined || othersWith(fn, runtime)) return "runtime";
  const isOwnCode = runtime.image_digest !== served.image_digest &&
    versions.some((each) => each.image_digest === runtime.image_digest);
  if (!isOwnCode) return "runtime";
  return versions.map(({ version }) => version).filter((each) => each > fn.current_version);
}

const NAMED = 3;

/** "v4, v3, v2, …" */
export function named(versions: readonly number[]): string {
  const all = versions.slice(0, NAMED).map((each) => `v${each}`);
  return [...all, ...(versions.length > NAMED ? ["…"] : [])].join(", ");
}
