// Form fields: a label that is always visible, a hint below, and no autocompletion by the browser.
import type { Signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import { html } from "../../html.ts";
import { useFailure, Wrong } from "./failing.ts";
import { refuseLong } from "./paste.ts";

interface Common {
  label: string;
  /** The path of its field in the API: a refusal that names it is shown below the field. */
  name?: string;
  value: Signal<string>;
  /** A hint, which screen readers read with the field. */
  about?: string;
  placeholder?: string;
}

const typed = (value: Signal<string>) => (event: Event): void => {
  value.value = (event.target as HTMLInputElement).value;
};

/** The attributes of a control, and the sentence with its error. */
function useSaid({ label, name = "", about }: Common): {
  id: string;
  said: string | null;
  own: Record<string, unknown>;
} {
  const id = useId();
  const said = useFailure(name, label, id);
  const described = [said && `${id}-wrong`, about && `${id}-about`].filter(Boolean).join(" ");
  return {
    id,
    said,
    own: { id, "aria-describedby": described || null, "aria-invalid": said ? true : null },
  };
}

/** A label for any content. `isGroup`: the content has several controls. */
export function Field(
  { label, about, id, said = null, isGroup = false, children }: {
    label: string;
    about?: string | undefined;
    id?: string;
    /** The error of the field. */
    said?: string | null;
    isGroup?: boolean;
    children?: ComponentChildren;
  },
) {
  const hint = html`<${Wrong} said=${said} id=${`${id}-wrong`} />${
    about && html`<small id=${`${id}-about`} class="muted">${about}</small>`
  }`;
  if (isGroup) {
    return html`
      <div class="field" role="group"
        aria-label=${label}><span class="label">${label}</span>${children}${hint}</div>
    `;
  }
  return html`<div class="field"><label for=${id}>${label}</label>${children}${hint}</div>`;
}

export function Text(
  all:
    & Common
    & {
      type?: "text" | "number";
      /** Suggestions; other values are accepted, too. */
      suggestions?: readonly string[];
      isRequired?: boolean;
      isMono?: boolean;
      min?: number;
      max?: number;
      maxlength?: number;
    },
) {
  const { label, name: _name, value, about, placeholder, type = "text", ...rest } = all;
  const { suggestions, isRequired, isMono, ...more } = rest;
  const { id, said, own } = useSaid(all);
  return html`
    <${Field} label=${label} about=${about} id=${id}
      said=${said}><input class=${`text ${isMono ? "mono" : ""}`}
          ...${own} type=${type} value=${value} onInput=${typed(value)} required=${isRequired}
          placeholder=${placeholder} autocomplete="off" spellcheck=${false} ...${more}
          list=${suggestions ? `${id}-list` : null} />
        ${suggestions &&
          html`<datalist id=${`${id}-list`}>${
            suggestions.map((suggestion) => html`<option value=${suggestion} key=${suggestion} />`)
          }</datalist>`}</${Field}>
  `;
}

export function Area(all: Common & { rows?: number }) {
  const { label, value, about, placeholder, rows = 4 } = all;
  const { id, said, own } = useSaid(all);
  return html`
    <${Field} label=${label} about=${about} id=${id} said=${said}>
      <textarea ...${own} rows=${rows}
        value=${value} onInput=${typed(value)} placeholder=${placeholder} spellcheck=${false}
        onPaste=${refuseLong} />
      </${Field}>
  `;
}

/** `options`: each with its label. */
export function Select(
  all: Common & {
    options: readonly (readonly [value: string, said: string])[];
  },
) {
  const { label, value, about, options } = all;
  const { id, said, own } = useSaid(all);
  return html`
    <${Field} label=${label} about=${about} id=${id}
      said=${said}><select class="text"
        ...${own} value=${value} onChange=${typed(value)}>${options.map(([option, said]) =>
          html`<option value=${option} key=${option}>${said}</option>`
        )}</select></${Field}>
  `;
}
