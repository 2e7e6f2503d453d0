// The frame of every page: navigation, connection state, theme, sign-in, and errors of the page.
import { useSignal } from "@preact/signals";
import { Component, type ComponentType } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { credential, needsKey, root } from "./api.ts";
import { html } from "./html.ts";
import type { PageProps } from "./page_props.ts";
import { type Page, PAGES } from "./pages.ts";
import { Confirm } from "./parts/controls/confirm.ts";
import { useEdges } from "./parts/controls/edges.ts";
import { Notice } from "./parts/lists/notice.ts";
import { isHelpOpen, Shortcuts } from "./parts/controls/shortcuts.ts";
import { ThemeSwitch } from "./parts/controls/theme.ts";
import { Toasts } from "./parts/controls/toast.ts";
import { match, path, route } from "./router.ts";
import { SignIn } from "./sign_in.ts";
import { connection, signOut, who } from "./store.ts";
import type { Connection } from "./stream.ts";

const SAID: Record<Connection, string> = {
  live: "Live",
  lost: "Connection lost, trying again",
  polling: "Every 2 s",
  paused: "Paused",
};

/** The page of a path with its parameters; null if there is none. */
export function find(parts: string[]): { page: Page; parameters: PageProps } | null {
  for (const page of PAGES) {
    const parameters = match(page.pattern, parts);
    if (parameters) return { page, parameters };
  }
  return null;
}

/** If a page fails, shows its error; other pages still work. */
class Boundary extends Component<{ children?: unknown }, { error: Error | null }> {
  override state = { error: null };
  static override getDerivedStateFromError(error: Error): { error: Error } {
    return { error };
  }
  override render(): never {
    const { error } = this.state;
    return (error ? html`<${Notice} of=${error} />` : this.props.children) as never;
  }
}

const RELOADED = "quiltfn.reloaded", RELOADED_BEFORE_MS = 60_000;
const MAIN = /<script type="module" src="([^"]+)"/; // the same as in ui/index.html

/** Reloads the dashboard if the server was upgraded and its old files are gone. Returns whether it
 * reloads, which happens at most once a minute, since nodes of different releases may respond in
 * turn.
 */
async function reloadIfOutdated(): Promise<boolean> {
  if (Date.now() - Number(sessionStorage.getItem(RELOADED)) < RELOADED_BEFORE_MS) return false;
  const response = await fetch(document.baseURI, { cache: "no-store" });
  if (!response.ok) return false;
  const main = MAIN.exec(await response.text())?.[1];
  const own = document.querySelector("script[type=module][src]")?.getAttribute("src");
  if (main === undefined || main === own) return false;
  sessionStorage.setItem(RELOADED, String(Date.now()));
  location.reload();
  return true;
}

/** Loads the code of a page, then shows it. */
function Loaded({ page, parameters }: { page: Page; parameters: PageProps }) {
  const ready = useSignal<ComponentType<PageProps> | null>(null);
  const problem = useSignal<Error | null>(null);
  useEffect(() => {
    page.load().then((found) => {
      ready.value = found.default;
    }, async (error) => {
      if (!await reloadIfOutdated().catch(() => false)) problem.value = error;
    });
  }, []);
  if (problem.value) {
    return html`<${Notice} of=${new Error(
      "Part of the page could not be loaded. Reload the page.",
    )} />`;
  }
  const Ready = ready.value;
  return Ready && html`<${Ready} ...${parameters} />`;
}

const FADE_PX = 56; // room for the fade at an edge where the row continues

function Navigation({ here }: { here: Page | undefined }) {
  const current = here?.nav ?? here?.under;
  const nav = useRef<HTMLElement>(null);
  const named = PAGES.filter((page) => page.nav && (page.isNamed?.() ?? true));
  useEdges(nav);
  useEffect(() => {
    const at = nav.current?.querySelector<HTMLElement>("[aria-current]");
    if (at) nav.current?.scrollTo({ left: at.offsetLeft - nav.current.offsetLeft - FADE_PX });
  }, [current, named.length]);
  return html`<nav aria-label="Pages" ref=${nav}>${
    named.map((page) =>
      html`<a href=${`#/${page.pattern}`} aria-current=${
        page.nav === current ? "page" : null
      }>${page.nav}</a>`
    )
  }</nav>`;
}

function Brand() {
  const squares = [[1, 1, "busy"], [9, 1, "good"], [1, 9, "slow"], [9, 9, "busy"]];
  return html`
    <a class="brand" href="#/" aria-label="quiltfn, all functions"
    ><svg width="18" height="18" viewBox="0 0 16 16" aria-hidden="true">${squares.map((
      [x, y, name],
    ) =>
      html`<rect x=${x} y=${y} width="6" height="6" rx="1.5" fill=${`var(--${name})`} />`
    )}</svg><span class="wide">quiltfn</span></a>
  `;
}

function Account() {
  const me = who.value;
  if (needsKey.value) return null;
  // The server does not identify the key of a disabled tenant, but the user may have another key.
  const isSignedIn = me ? me.needs_credential : credential.get() !== null;
  return html`${
    me &&
    html`<span class="account small muted roomy" title=${`tenant ${me.tenant_id}, scope ${me.scope}`}>${me.tenant_id}, ${me.scope}</span>`
  }
    ${
    isSignedIn &&
    html`<button class="button quiet" type="button" onClick=${signOut}>Sign out</button>`
  }`;
}

/** A link to the documentation of this page, if the server has it. */
function Docs({ of, class: name }: { of: ReturnType<typeof find>; class: string }) {
  if (!(who.value?.offers.includes("docs") ?? false)) return null;
  const section = of?.parameters["section"] ?? "";
  const page = of === null ? "README" : of.page.docsOf?.[section] ?? of.page.docs;
  const to = new URL(page === "README" ? "docs/" : `docs/${page}.html`, root()).href;
  return html`<a class=${name} href=${to} title="The documentation of this page">Docs</a>`;
}

export function Shell() {
  const main = useRef<HTMLElement>(null);
  const found = find(route.value.parts);
  const where = path.value;
  const title = found?.page.title ?? "Not found";
  useEffect(() => {
    document.title = `${title} · quiltfn`;
  }, [title]);
  useEffect(() => {
    const keys = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (target.closest("input, textarea, select, q-code, [contenteditable], dialog")) return;
      if (event.key === "?") {
        event.preventDefault();
        isHelpOpen.value = true;
      }
      if (event.key !== "/") return;
      const search = document.querySelector<HTMLInputElement>("main input[type=search]");
      if (!search) return;
      event.preventDefault();
      search.select();
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);
  return html`
    <button class="skip" type="button" onClick=${() =>
      main.current?.focus()}>Skip to content</button>
    <header class="top">
      <${Brand} />
      <${Navigation} here=${found?.page} />
      ${!needsKey.value &&
        html`
          <span class="line" data-state=${connection.value} role="status"
          ><span class="wide">${SAID[connection.value]}</span></span>
        `}
      <${Account} />
      <${Docs} of=${found} class="docs wide" />
      <button class="button icon wide" type="button" aria-label="Keyboard" title="Keyboard (?)"
        onClick=${() => {
          isHelpOpen.value = true;
        }}>?</button>
      <${ThemeSwitch} />
    </header>
    <main ref=${main} tabindex="-1">${needsKey.value ? html`<${SignIn} />` : found
      ? html`
        <${Boundary} key=${where}>
          <${Loaded} ...${found} />
          </${Boundary}>
      `
      : html`<p class="empty">There is no such page. <a href="#/">All functions</a></p>`}</main>
    <footer class="foot narrow">
      <${Docs} of=${found} class="docs" />
    </footer>
    <${Toasts} />
    <${Confirm} />
    <${Shortcuts} />
  `;
}
