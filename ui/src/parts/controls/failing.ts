// A form that shows the server's refusal beside the field that the refusal names, with the field's
// label.
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
/** The path of the invalid field of the request, such as cors.max_age_seconds; otherwise null. */
export function fieldIn(error: Error | null): string | null {
  return error instanceof Refused && error.status === 422 ? error.details?.field ?? null : null;
}

/** The sentence beside a field: its label, and the value that the API expects; null if the error is
 * about another field.
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

/** `of`: the server's refusal. If no field shows the refusal, it is shown above the form's content
 * or, with `isApart`, in the element `Unnamed`.
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

/** The server's refusal, unless a field of the form shows it. */
export function Unnamed() {
  const failing = useContext(Context);
  const isShown = failing === null || failing.shown.value === failing.of;
  return !isShown && failing.of && html`<${Notice} of=${failing.of} />`;
}

/** The error of the surrounding form's field with the API name `path`, which then gets the focus;
 * null: no error.
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

/** The sentence below a field. `id`: of the element that describes the field. */
export function Wrong({ said, id }: { said: string | null; id?: string }) {
  return said && html`<small class="wrong" role="alert" id=${id}>${said}</small>`;
}

/** The sentence below a field, if the error is about the field or a part of it. `of`: the id of its
 * control.
 */
export function WrongOf({ path, label, of }: { path: string; label: string; of?: string }) {
  return html`<${Wrong} said=${useFailure(path, label, of)} />`;
}
