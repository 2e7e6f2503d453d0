// A form whose refusal stands beside the field that it names, under the label that the reader sees.
import { type Signal, useSignal } from "@preact/signals";
import { type ComponentChildren, createContext } from "preact";
import { useContext, useLayoutEffect } from "preact/hooks";
import { Refused } from "../../api.ts";
import { html } from "../../html.ts";
import { Notice } from "../lists/notice.ts";

interface Failing {
  of: Error | null;
  /** The error that some field shows. */
  shown: Signal<Error | null>;
}

const Context = createContext<Failing | null>(null);
/** The path of the field that the request has wrong, such as cors.max_age_seconds; else null. */
export function fieldIn(error: Error | null): string | null {
  return error instanceof Refused && error.status === 422 ? error.details?.field ?? null : null;
}

/** The sentence beside a field: what the API expects of it, by the label that the reader sees; null
 * if the error is about another field.
 */
export function saidOf(error: Error | null, path: string, label: string): string | null {
  const named = fieldIn(error);
  if (!path || !named?.startsWith(path) || !["", ".", "["].includes(named.charAt(path.length))) {
    return null;
  }
  const below = named.slice(path.length);
  const within = below.startsWith(".") ? ` (${below.slice(1)})` : below;
  const { expected, received } = (error as Refused).details ?? {};
  const was = typeof received === "number" || (typeof received === "string" && received)
    ? `, not ${received}`
    : "";
  return `${label}${within} must be ${expected}${was}`;
}

/** `of`: what the server refused. What no field shows stands above the rest, or, where that
 * `isApart`, at the place of `Unnamed`.
 */
export function Form({ of, isApart = false, children }: {
  of: Error | null;
  isApart?: boolean;
  children?: ComponentChildren;
}) {
  const shown = useSignal<Error | null>(null);
  return html`<${Context.Provider} value=${{ of, shown }}>${
    !isApart && html`<${Unnamed} />`
  }${children}</${Context.Provider}>`;
}

/** What the server refused, unless a field of the form shows it. */
export function Unnamed() {
  const failing = useContext(Context);
  const isShown = failing === null || failing.shown.value === failing.of;
  return !isShown && failing.of && html`<${Notice} of=${failing.of} />`;
}

/** What is said of a field of the form around it; null: nothing. `path`: its name in the API. It
 * gets the focus.
 */
export function useFailure(path: string, label: string, id?: string): string | null {
  const failing = useContext(Context);
  const of = failing?.of ?? null;
  const said = saidOf(of, path, label);
  useLayoutEffect(() => {
    if (failing === null || said === null) return;
    failing.shown.value = of;
    const control = id ? document.getElementById(id) : null;
    control?.focus({ preventScroll: true });
    control?.closest(".field")?.scrollIntoView({ block: "center" });
  }, [of, said === null]);
  return said;
}

/** The sentence below a field. `id`: what describes the field. */
export function Wrong({ said, id }: { said: string | null; id?: string }) {
  return said && html`<small class="wrong" role="alert" id=${id}>${said}</small>`;
}

/** The sentence below a field that a part of its own shows. `of`: the id of its control. */
export function WrongOf({ path, label, of }: { path: string; label: string; of?: string }) {
  return html`<${Wrong} said=${useFailure(path, label, of)} />`;
}
