// A form field with the server's limits, and the server's description below it. If a nullable field
// is empty, its value is null.
import { useSignal } from "@preact/signals";
import { useEffect, useId } from "preact/hooks";
import { describe, described, type Field, fieldOf } from "../../fields.ts";
import { html } from "../../html.ts";
import { useFailure, Wrong } from "./failing.ts";

type Value = string | number | boolean | readonly string[] | null;

export interface DescribedProps {
  /** The API schema of the field, such as FunctionChanges, and the field's name in it. */
  shape: string;
  name: string;
  /** The parent field, if the schema is nested in another one, such as cors. */
  within?: string;
  label: string;
  value: Value;
  onValue: (value: never) => void;
  isReadOnly?: boolean;
  /** The options, if the server lists them elsewhere. */
  options?: readonly string[] | undefined;
  /** The label of an option that is not self-explanatory. */
  words?: Record<string, string>;
  isMono?: boolean;
}

/** The input, converted for the API. */
export function taken(
  text: string,
  field: Pick<Field, "type" | "isNullable">,
): string | number | null {
  if (text === "" && field.isNullable) return null;
  return field.type === "integer" || field.type === "number" ? Number(text) : text;
}

/** The API's description of a field for a form, where an empty field means null. */
export function aboutEmpty(
  { about, whenNull, isNullable }: Pick<Field, "about" | "whenNull" | "isNullable">,
): string {
  if (!isNullable) return about;
  return `${about}; ${whenNull ? `empty: ${whenNull}` : "may be empty"}`;
}

/** Parses a list of words, separated by commas or spaces. */
export function wordsOf(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}

export function Described(props: DescribedProps) {
  const { shape, name, label, value, isReadOnly = false } = props;
  const id = useId();
  const said = useFailure(props.within ? `${props.within}.${name}` : name, label, id);
  useEffect(describe, []);
  // The input's type is unknown before.
  if (described.value === null) {
    return html`<div class="field"><span class="label">${label}</span><span class="text"
      aria-busy="true" /></div>`;
  }
  const field = fieldOf(described.value, shape, name);
  const tell = props.onValue as (value: Value) => void;
  const about = `${id}-about`;
  const shared = {
    ...{ id, disabled: isReadOnly, "aria-describedby": said ? `${id}-wrong ${about}` : about },
    ...(said && { "aria-invalid": true }),
  };
  const hint = html`
    <${Wrong} said=${said} id=${`${id}-wrong`} /><small id=${about}
      class="muted">${aboutEmpty(field)}</small>
  `;
  if (typeof value === "boolean") {
    return html`
      <div class="field"><label class="check"><input type="checkbox" ...${shared} checked=${value}
        onChange=${(event: Event) =>
          tell((event.target as HTMLInputElement).checked)} /> ${label}</label>${hint}</div>
    `;
  }
  return html`<div class="field">${
    Array.isArray(value) && (props.options ?? field.options)
      ? html`<span class="label">${label}</span>`
      : html`<label for=${id}>${label}</label>`
  }<${Control} ...${{ ...props, field, shared, tell }} />${hint}</div>`;
}

interface ControlProps extends DescribedProps {
  field: Field;
  shared: Record<string, unknown>;
  tell: (value: Value) => void;
}

function Control(
  { name, label, value, options, words = {}, isMono, field, shared, tell }: ControlProps,
) {
  const { id: _id, ...unnamed } = shared;
  const typed = (event: Event) => tell(taken((event.target as HTMLInputElement).value, field));
  const all = options ?? field.options;
  if (Array.isArray(value) && !all) {
    return html`
      <input class="text mono" ...${shared} type="text" value=${value.join(", ")} autocomplete="off"
        spellcheck=${false} onChange=${(event: Event) =>
          tell(wordsOf((event.target as HTMLInputElement).value))} />
    `;
  }
  if (Array.isArray(value)) {
    return html`<div class="checks" role="group" aria-label=${label}>${
      (all ?? []).map((option) =>
        html`<label class="check" key=${option}><input type="checkbox" ...${unnamed}
          checked=${value.includes(option)} onChange=${() =>
          tell(
            value.includes(option) ? value.filter((other) => other !== option) : [...value, option],
          )} /> ${option}</label>`
      )
    }</div>`;
  }
  if (all) {
    return html`<select class="text" ...${shared} value=${value} onChange=${typed}>${
      all.map((option) =>
        html`<option value=${option} key=${option} selected=${option === value}>${
          words[option] ?? option
        }</option>`
      )
    }</select>`;
  }
  if (name === "secret") {
    return html`<${Secret} ...${{ label, value, field, shared, typed }} />`;
  }
  const isNumber = field.type === "integer" || field.type === "number";
  const bounds = isNumber
    ? { min: field.minimum, max: field.maximum, step: field.type === "integer" ? 1 : "any" }
    : { maxlength: field.maxLength };
  return html`
    <input class=${`text ${isMono ? "mono" : ""}`} ...${shared} ...${bounds} name=${name}
      type=${isNumber ? "number" : "text"} value=${value ?? ""} required=${!field.isNullable}
      autocomplete="off" spellcheck=${false} onInput=${typed} />
  `;
}

/** A secret, shown as dots until it is revealed. */
function Secret({ label, value, field, shared, typed }: {
  label: string;
  value: string | null;
  field: Field;
  shared: Record<string, unknown>;
  typed: (event: Event) => void;
}) {
  const isShown = useSignal(false);
  return html`
    <div class="joined"><input class="text mono" ...${shared} name="secret"
        type=${isShown.value ? "text" : "password"} value=${value ?? ""}
        maxlength=${field.maxLength} required=${!field.isNullable} autocomplete="off"
        spellcheck=${false} onInput=${typed} />
      ${value && html`
        <button class="button" type="button" aria-pressed=${isShown.value}
          aria-label=${`${isShown.value ? "Hide" : "Reveal"} ${label.toLowerCase()}`}
          onClick=${() => {
            isShown.value = !isShown.value;
          }}>${isShown.value ? "Hide" : "Reveal"}</button>
      `}</div>
  `;
}
