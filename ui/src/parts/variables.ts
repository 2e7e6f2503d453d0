// Environment variables, a row each.
import { html } from "../html.ts";
import type { Variable } from "../trying.ts";

const valueOf = (event: Event): string => (event.target as HTMLInputElement).value;

/** `label`: whose they are, for those who do not see it; without `onChange` they can only be read. */
export function Variables({ of, label, onChange }: {
  of: readonly Variable[];
  label: string;
  onChange?: (all: readonly Variable[]) => void;
}) {
  const replace = (n: number, ...by: Variable[]) =>
    onChange?.([...of.slice(0, n), ...by, ...of.slice(n + 1)]);
  return html`
    <div class="variables" role="group" aria-label=${label}>${of.map(([name, value], n) =>
      html`
        <div class="variable" key=${n}>
          <input class="text mono" aria-label=${`Name of variable ${n + 1}`} value=${name}
            placeholder="NAME" autocomplete="off" spellcheck=${false} readonly=${!onChange}
            onInput=${(event: Event) => replace(n, [valueOf(event), value])} />
          <input class="text mono" aria-label=${`Value of ${name || `variable ${n + 1}`}`}
            value=${value} placeholder="value" autocomplete="off" spellcheck=${false}
            readonly=${!onChange}
            onInput=${(event: Event) => replace(n, [name, valueOf(event)])} />
          ${onChange &&
            html`<button class="button icon" type="button" aria-label=${`Remove ${
              name || `variable ${n + 1}`
            }`} onClick=${() => replace(n)}>✕</button>`}
        </div>
      `
    )}${onChange &&
      html`<button class="button" type="button" onClick=${() =>
        onChange([...of, ["", ""]])}>Add a variable</button>`}</div>
  `;
}
