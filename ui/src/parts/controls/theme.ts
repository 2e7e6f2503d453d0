// Light or dark theme: the system's until the user chooses.
import { html } from "../../html.ts";

const KEPT = "quiltfn.theme";

export function restoreTheme(): void {
  const kept = localStorage.getItem(KEPT);
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}

function toggle(): void {
  const data = document.documentElement.dataset;
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const shown = data.theme ?? (isDark ? "dark" : "light");
  data.theme = shown === "dark" ? "light" : "dark";
  localStorage.setItem(KEPT, data.theme);
}

export function ThemeSwitch() {
  return html`
    <button class="button icon" type="button" aria-label="Light or dark" title="Light or dark"
      onClick=${toggle}><svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">
          <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" stroke-width="1.6" />
          <path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor" /></svg></button>
  `;
}
