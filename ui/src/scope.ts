// What the key of this tab may do. Nobody is offered a button that the server would refuse.
import { who } from "./store.ts";

const SCOPES = ["read", "invoke", "write", "admin", "operator"];

/** Whether the caller has a scope, or one that includes it. */
export function may(scope: "invoke" | "write" | "admin" | "operator"): boolean {
  return SCOPES.indexOf(who.value?.scope ?? "") >= SCOPES.indexOf(scope);
}
