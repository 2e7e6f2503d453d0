// Environment variables, one per row. Values that look like secrets are dots until they are revealed.
import { useSignal } from "@preact/signals";
import { html } from "../../html.ts";
import { visible } from "../text/ansi.ts";
import { looksSecret } from "../../secrets.ts";
import type { Variable } from "../../trying.ts";

const DOTS = "••••••••";

const valueOf = (event: Event): string => (event.target as HTMLInputElement).value;

/** `label`: a description for screen readers; without `onChange` the variables are read-only. */
export function Variables({ of, label, onChange }: {
  of: readonly Variable[];
  label: string;
  onChange?: (all: readonly Variable[]) => void;
}) {
  const revealed = useSignal<ReadonlySet<string>>(new Set());
  const replace = (n: number, ...by: Variable[]) =>
    onChange?.([...of.slice(0, n), ...by, ...of.slice(n + 1)]);
  const toggle = (name: string) => {
    const names = new Set(revealed.value);
    if (!names.delete(name)) names.add(name);
    revealed.value = names;
  };
  return html`
    <div class="variables" role="group" aria-label=${label}>${of.map(([name, value], n) => {
      const isSecret = looksSecret(name, value), isShown = revealed.value.has(name);
      const said = name || `variable ${n + 1}`;
      return html`
        <div class="variable" key=${n}>
          <input class="text mono" aria-label=${`Name of variable ${n + 1}`} value=${name}
            placeholder="NAME" autocomplete="off" spellcheck=${false} readonly=${!onChange}
            onInput=${(event: Event) => replace(n, [valueOf(event), value])} />
          <div class="joined"><input class="text mono" aria-label=${`Value of ${said}`}
              type=${isSecret && !isShown ? "password" : "text"}
              value=${value} placeholder="value" autocomplete="off" spellcheck=${false}
              readonly=${!onChange}
              onInput=${(event: Event) => replace(n, [name, valueOf(event)])} />
            ${isSecret &&
              html`
                <button class="button" type="button" aria-pressed=${isShown}
                  aria-label=${`${isShown ? "Hide" : "Reveal"} ${said}`}
                  onClick=${() => toggle(name)}>${isShown ? "Hide" : "Reveal"}</button>
              `}</div>
          ${onChange &&
            html`
              <button class="button icon" type="button" aria-label=${`Remove ${said}`}
                onClick=${() => replace(n)}>✕</button>
            `}
        </div>
      `;
    })}${onChange &&
      html`<button class="button" type="button" onClick=${() =>
        onChange([...of, ["", ""]])}>Add a variable</button>`}</div>
  `;
}

/** The value of a variable within a line of text; dots with a button if it looks like a secret. */
export function VariableValue({ name, value }: { name: string; value: string }) {
  const isShown = useSignal(false);
  if (!looksSecret(name, value)) return html`<span class="muted small">${visible(value)}</span>`;
  return html`
    <span class="muted small">${isShown.value ? visible(value) : DOTS}</span>
    <button class="button" type="button" aria-pressed=${isShown.value}
      aria-label=${`${isShown.value ? "Hide" : "Reveal"} ${name}`} onClick=${() => {
        isShown.value = !isShown.value;
      }}>${isShown.value ? "Hide" : "Reveal"}</button>
  `;
}
