// A dialog above the page. Escape and a button close it. The focus then returns to its previous
// place.
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { html } from "../../html.ts";

export function Dialog({ title, onClose, children, close = "Close" }: {
  title: string;
  onClose: () => void;
  children?: ComponentChildren;
  close?: string;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    dialog.current?.showModal();
    return () => before?.focus();
  }, []);
  return html`
    <dialog class="card window" ref=${dialog} aria-labelledby=${id} onClose=${onClose}>
      <header>
        <h2 id=${id}>${title}</h2>
      </header>
      <div class="inside">${children}</div>
      <footer><button class="button" type="button" onClick=${() =>
        dialog.current?.close()}>${close}</button></footer>
    </dialog>
  `;
}
