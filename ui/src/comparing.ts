// Compares two versions of a function.
import { visible } from "./parts/text/ansi.ts";
import type { Version } from "./wire.ts";

/** A field that differs between two versions, with both values as text; null: not set. */
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

/** The differences except for handler and files. For variables, only the names and whether values
 * differ.
 */
export function differences(before: Version, after: Version): Difference[] {
  const found: Difference[] = [];
  for (const [field, name, unit] of NAMES) {
    if (before[field] === after[field]) continue;
    const difference = { name, before: said(before[field], unit) };
    found.push({ ...difference, after: said(after[field], unit) });
  }
  const [old, now] = [before.environment, after.environment];
  for (const name of [...new Set([...Object.keys(old), ...Object.keys(now)])].sort()) {
    if (old[name] === now[name]) continue;
    const stateIn = (of: Record<string, string>, word: string) => name in of ? word : null;
    found.push({
      name: `Variable ${name}`,
      before: stateIn(old, "set"),
      after: stateIn(now, name in old ? "another value" : "set"),
    });
  }
  return found;
}

const FILES_NAMED = 3;

/** A short description of a version's changes, such as "Code (main.py), Memory". `files`: the paths of
 * changed files, if known.
 */
export function summary(
  before: Version | undefined,
  after: Version,
  files: readonly string[] = [],
): string {
  if (!before) return "";
  const names = differences(before, after).map((difference) => difference.name);
  if (before.handler !== after.handler) names.unshift("Handler");
  if (before.image_digest !== after.image_digest) {
    const named = files.slice(0, FILES_NAMED).map(visible);
    if (files.length > FILES_NAMED) named.push(`${files.length - FILES_NAMED} more`);
    names.unshift(named.length > 0 ? `Code (${named.join(", ")})` : "Code");
  }
  return names.join(", ") || "nothing";
}
