// What the key of this tab may do. Nobody is offered a button that the server would refuse.
import { who } from "./store.ts";
import { SCOPES } from "./wire.ts";

/** Each includes the ones before it. */
export type Scope = typeof SCOPES[number];

/** Whether the caller has a scope, or one that includes it. */
export function may(scope: Scope): boolean {
  return SCOPES.findIndex((one) => one === who.value?.scope) >= SCOPES.indexOf(scope);
}

const OPEN = "open"; // who calls a server that has no keys

/** A caller in words; `id`: the id of its key. */
export const callerOf = (id: string): string =>
  id === OPEN ? "anybody: the server has no keys" : id;
