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
const NAMING = /^([\w.-]+)(?:\[\d+\])* (?:must be|is) /;
const NO_FIELD = /^\S+ is not a field of this request/;

/** The path of the field that a refusal names first, such as cors.max_age_seconds; else null. */
export function fieldIn(error: Error | null): string | null {
  if (!(error instanceof Refused) || error.status !== 422) return null;
  if (NO_FIELD.test(error.message)) return null;
  return NAMING.exec(error.message)?.[1] ?? null;
}

/** What is said beside a field: the sentence with its label in place of the name that the API has
 * for it; null where the error is about another field.
 */
export function saidOf(error: Error | null, path: string, label: string): string | null {
  const named = fieldIn(error);
  if (error === null || named === null) return null;
  if (named !== path && !named.startsWith(`${path}.`)) return null;
  const within = named.slice(path.length + 1);
  const rest = error.message.slice(named.length);
  const { received } = (error as Refused).details ?? {};
  const was = typeof received === "number" || (typeof received === "string" && received)
    ? `, not ${received}`
    : "";
  return `${label}${within && ` (${within})`}${rest}${was}`;
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
