// How two versions of a function differ.
import { visible } from "./parts/text/ansi.ts";
import type { Version } from "./wire.ts";

/** A field that two versions have in different ways, as text; null: there is nothing. */
export interface Difference {
  name: string;
  before: string | null;
  after: string | null;
}

type Plain = Exclude<keyof Version, "handler" | "environment" | "image_digest">;

const NAMES: [field: Plain, name: string, unit: string][] = [
  ["runtime", "Runtime", ""],
  ["memory_limit_mb", "Memory", " MiB"],
  ["cpu_limit_percent", "Processor", " %"],
  ["timeout_seconds", "Timeout", " s"],
  ["cleanup_on_exit", "Cleaned up after each call", ""],
  ["working_directory", "Working directory", ""],
  ["description", "Description", ""],
];

function said(value: unknown, unit: string): string | null {
  if (value === null || value === "") return null;
  if (typeof value === "boolean") return value ? "yes" : "no";
  return visible(`${value}${unit}`);
}

/** What differs besides the handler and the files. Of variables the names are told, and whether values differ. */
export function differences(before: Version, after: Version): Difference[] {
  const found: Difference[] = [];
  for (const [field, name, unit] of NAMES) {
    if (before[field] === after[field]) continue;
    const one = { name, before: said(before[field], unit) };
    found.push({ ...one, after: said(after[field], unit) });
  }
  const [old, now] = [before.environment, after.environment];
  for (const name of [...new Set([...Object.keys(old), ...Object.keys(now)])].sort()) {
    if (old[name] === now[name]) continue;
    const told = (of: Record<string, string>, word: string) => name in of ? word : null;
    found.push({
      name: `Variable ${name}`,
      before: told(old, "set"),
      after: told(now, name in old ? "another value" : "set"),
    });
  }
  return found;
}

const FILES_NAMED = 3;

/** What a version changed, in a few words, such as "Code (main.py), Memory". `files`: the paths of
 * those that differ, where they are known.
 */
export function summary(
  before: Version | undefined,
  after: Version,
  files: readonly string[] = [],
): string {
  if (!before) return "";
  const names = differences(before, after).map((one) => one.name);
  if (before.handler !== after.handler) names.unshift("Handler");
  if (before.image_digest !== after.image_digest) {
    const named = files.slice(0, FILES_NAMED).map(visible);
    if (files.length > FILES_NAMED) named.push(`${files.length - FILES_NAMED} more`);
    names.unshift(named.length > 0 ? `Code (${named.join(", ")})` : "Code");
  }
  return names.join(", ") || "nothing";
}
