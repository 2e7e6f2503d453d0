// A code editor or viewer; a text field until the editor is loaded, or if it cannot be.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { html } from "../../html.ts";
import type { CodeEditor } from "./editor.ts";

export interface CodeProps {
  text: string;
  /** shell, python or node. */
  language: string;
  label: string;
  /** Called with every change; without it the text is read-only. */
  onText?: (text: string) => void;
  /** The text to compare with. */
  before?: string;
  /** The line that an error names, until the text changes. */
  markedLine?: number | null;
}

const isReady = signal(false);
let asked = false;

function fetchEditor(): void {
  if (asked) return;
  asked = true;
  import("./editor.ts").then(() => {
    isReady.value = true;
  }, () => {});
}

export function Code({ text, language, label, onText, before, markedLine = null }: CodeProps) {
  const box = useRef<CodeEditor>(null);
  const hear = useRef(onText);
  hear.current = onText;
  // texts that the editor has reported, but the parent has not passed back yet
  const pending = useRef<string[]>([]);
  useEffect(fetchEditor, []);
  const ready = isReady.value;
  useEffect(() => {
    const setup = { text, language, label, isReadOnly: !hear.current, before: before ?? null };
    box.current?.begin(setup, (changed) => {
      pending.current.push(changed);
      hear.current?.(changed);
    });
  }, [ready, before]);
  useEffect(() => {
    // A text that the parent passes back late must not undo later typing.
    const at = pending.current.indexOf(text);
    pending.current = at < 0 ? [] : pending.current.slice(at + 1);
    if (at < 0 && ready && box.current) box.current.text = text;
  }, [text]);
  useEffect(() => {
    if (ready && box.current) box.current.language = language;
  }, [language]);
  useEffect(() => {
    if (ready && box.current) box.current.markedLine = markedLine;
  }, [ready, markedLine]);
  if (ready) return html`<q-code class="code" ref=${box} />`;
  return html`
    <textarea class="code" aria-label=${label} spellcheck=${false} readonly=${!onText}
      value=${text} onInput=${(event: InputEvent) => {
        onText?.((event.target as HTMLTextAreaElement).value);
      }} />
  `;
}
