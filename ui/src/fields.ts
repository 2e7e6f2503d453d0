// The server's descriptions of fields, from its OpenAPI document: forms show the meaning of each field, and
// the browser enforces its limits.
import { signal } from "@preact/signals";
import { get } from "./api.ts";
import { toastError } from "./parts/controls/toast.ts";

/** The description of a field. A nullable field is described by its type other than null. */
export interface Field {
  about: string;
  /** The meaning of null; empty if the server doesn't describe it. */
  whenNull: string;
  type: string;
  isNullable: boolean;
  minimum: number | undefined;
  maximum: number | undefined;
  maxLength: number | undefined;
  options: readonly string[] | undefined;
  example: unknown;
}

interface Schema {
  description?: string;
  type?: string;
  minimum?: number;
  maximum?: number;
  maxLength?: number;
  enum?: string[];
  items?: Schema;
  examples?: unknown[];
  anyOf?: Schema[];
}

export interface Description {
  components: { schemas: Record<string, { properties?: Record<string, Schema> }> };
}

/** The server's description of its API; null until it is loaded. */
export const described = signal<Description | null>(null);
let asked = false;

/** Loads the description, once. */
export function describe(): void {
  if (asked) return;
  asked = true;
  get<Description>("openapi.json").then((found) => {
    described.value = found;
  }, (error) => {
    asked = false;
    toastError(error);
  });
}

/** The description of a schema's field in `from`; empty if there is none. */
export function fieldOf(from: Description | null, shape: string, name: string): Field {
  const whole: Schema = from?.components.schemas[shape]?.properties?.[name] ?? {};
  const parts = whole.anyOf ?? [whole];
  const own = parts.find((part) => part.type !== "null") ?? {};
  return {
    about: own.description ?? "",
    whenNull: parts.find((one) => one.type === "null")?.description ?? "",
    type: own.type ?? "string",
    isNullable: parts.length > 1,
    minimum: own.minimum,
    maximum: own.maximum,
    maxLength: own.maxLength,
    options: own.enum ?? own.items?.enum,
    example: own.examples?.[0],
  };
}

/** The fields of `now` that differ from `before`. */
export function changesOf<T extends object>(before: T, now: T): Partial<T> {
  const changes: Partial<T> = {};
  for (const name of Object.keys(now) as (keyof T)[]) {
    if (!isSame(before[name], now[name])) changes[name] = now[name];
  }
  return changes;
}

function isSame(a: unknown, b: unknown): boolean {
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return a === b;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length &&
    keys.every((key) =>
      isSame((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key])
    );
}
