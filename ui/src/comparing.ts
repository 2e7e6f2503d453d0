// How two versions of a function differ.
import { visible } from "./parts/ansi.ts";
import type { Version } from "./wire.ts";

/** A field that two versions have in different ways, as text; null: there is nothing. */
export interface Difference {
  name: string;
  before: string | null;
  after: string | null;
}

type Plain = Exclude<keyof Version, "handler" | "environment">;

const NAMES: [field: Plain, name: string, unit: string][] = [
  ["runtime", "Runtime", ""],
  ["image_digest", "Image", ""],
  ["memory_limit_mb", "Memory", " MiB"],
  ["cpu_limit_percent", "Processor", " %"],
  ["timeout_seconds", "Timeout", " s"],
  ["cleanup_on_exit", "Cleaned up after each call", ""],
  ["working_directory", "Working directory", ""],
  ["description", "Description", ""],
];
const DIGEST_SHOWN = 19;

function said(field: Plain, value: unknown, unit: string): string | null {
  if (value === null || value === "") return null;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (field === "image_digest") return String(value).slice(0, DIGEST_SHOWN);
  return visible(`${value}${unit}`);
}

/** What differs besides the handler. Of variables the names are told, and whether values differ. */
export function differences(before: Version, after: Version): Difference[] {
  const found: Difference[] = [];
  for (const [field, name, unit] of NAMES) {
    if (before[field] === after[field]) continue;
    const one = { name, before: said(field, before[field], unit) };
    found.push({ ...one, after: said(field, after[field], unit) });
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

/** What a version changed, in a few words, such as "handler, Memory". */
export function summary(before: Version | undefined, after: Version): string {
  if (!before) return "";
  const names = differences(before, after).map((one) => one.name);
  if (before.handler !== after.handler) names.unshift("Handler");
  return names.join(", ") || "nothing";
}
