// The permissions of this tab's key. Buttons that the server would refuse are not shown.
import { who } from "./store.ts";
import { SCOPES } from "./wire.ts";

/** Each scope includes those before it. */
export type Scope = typeof SCOPES[number];

/** Whether the caller has a scope, or one that includes it. */
export function may(scope: Scope): boolean {
  return SCOPES.findIndex((name) => name === who.value?.scope) >= SCOPES.indexOf(scope);
}

const OPEN = "open"; // the caller's name on a server without keys

/** A caller in words; `id`: the id of its key. */
export const callerOf = (id: string): string =>
  id === OPEN ? "anybody: the server has no keys" : id;
