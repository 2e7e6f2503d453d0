// Fields of forms: a label that is always in sight, a hint below, and no guessing by the browser.
import type { Signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import { html } from "../html.ts";

interface Common {
  label: string;
  value: Signal<string>;
  /** A hint, which is read aloud with the field. */
  about?: string;
  placeholder?: string;
}

const typed = (value: Signal<string>) => (event: Event): void => {
  value.value = (event.target as HTMLInputElement).value;
};

/** A label beside anything. `isGroup`: what is in it are several controls. */
export function Field(
  { label, about, id, isGroup = false, children }: {
    label: string;
    about?: string | undefined;
    id?: string;
    isGroup?: boolean;
    children?: ComponentChildren;
  },
) {
  const hint = about && html`<small id=${`${id}-about`} class="muted">${about}</small>`;
  if (isGroup) {
    return html`
      <div class="field" role="group"
        aria-label=${label}><span class="label">${label}</span>${children}${hint}</div>
    `;
  }
  return html`<div class="field"><label for=${id}>${label}</label>${children}${hint}</div>`;
}

export function Text(
  { label, value, about, placeholder, type = "text", suggestions, isRequired, isMono, ...more }:
    & Common
    & {
      type?: "text" | "number";
      /** Of which the reader may choose one; others are taken as well. */
      suggestions?: readonly string[];
      isRequired?: boolean;
      isMono?: boolean;
      min?: number;
      max?: number;
      maxlength?: number;
    },
) {
  const id = useId();
  return html`<${Field} label=${label} about=${about} id=${id}><input class=${`text ${
    isMono ? "mono" : ""
  }`}
      id=${id} type=${type} value=${value} onInput=${typed(value)} required=${isRequired}
      placeholder=${placeholder} autocomplete="off" spellcheck=${false} ...${more}
      list=${suggestions ? `${id}-list` : null} aria-describedby=${about ? `${id}-about` : null} />
    ${
    suggestions && html`<datalist id=${`${id}-list`}>${
      suggestions.map((one) => html`<option value=${one} key=${one} />`)
    }</datalist>`
  }</${Field}>`;
}

export function Area({ label, value, about, placeholder, rows = 4 }: Common & { rows?: number }) {
  const id = useId();
  return html`
    <${Field} label=${label} about=${about} id=${id}>
      <textarea id=${id} rows=${rows}
        value=${value} onInput=${typed(value)} placeholder=${placeholder} spellcheck=${false}
        aria-describedby=${about ? `${id}-about` : null} />
      </${Field}>
  `;
}

/** `options`: each with what is shown for it. */
export function Select(
  { label, value, about, options }: Common & {
    options: readonly (readonly [value: string, said: string])[];
  },
) {
  const id = useId();
  return html`<${Field} label=${label} about=${about} id=${id}><select class="text" id=${id}
    value=${value} onChange=${typed(value)} aria-describedby=${about ? `${id}-about` : null}>${
    options.map(([one, said]) => html`<option value=${one} key=${one}>${said}</option>`)
  }</select></${Field}>`;
}
