// What is said where the runtime of a function is another one than the version that serves was made with.
import { othersWith, type Standing } from "./saving.ts";
import type { Function, Version } from "./wire.ts";

/** "runtime": somebody replaced it. Else the numbers of the newer versions: it has the code of one of
 * the function's own, which the page saved in it, and nobody else uses it; then none may be newer.
 */
export type Outdated = "runtime" | readonly number[];

/** `versions`: of the function, at least the newest ones. */
export function outdatedBy(
  one: Function,
  { served, runtime }: Standing,
  versions: readonly Version[],
): Outdated {
  if (runtime === undefined || othersWith(one, runtime)) return "runtime";
  const isOwnCode = runtime.image_digest !== served.image_digest &&
    versions.some((each) => each.image_digest === runtime.image_digest);
  if (!isOwnCode) return "runtime";
  return versions.map(({ version }) => version).filter((each) => each > one.current_version);
}

const NAMED = 3;

/** "v4, v3, v2, …" */
export function named(versions: readonly number[]): string {
  const all = versions.slice(0, NAMED).map((each) => `v${each}`);
  return [...all, ...(versions.length > NAMED ? ["…"] : [])].join(", ");
}
