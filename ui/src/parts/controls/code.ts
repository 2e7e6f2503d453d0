// Code to write or to read. Until the editor is there, and where it cannot be had, a text field.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { html } from "../../html.ts";
import type { CodeEditor } from "./editor.ts";

export interface CodeProps {
  text: string;
  /** shell, python or node. */
  language: string;
  label: string;
  /** Hears every change; without it the text can only be read. */
  onText?: (text: string) => void;
  /** The text that the differences are shown to. */
  before?: string;
  /** The line that an error names, until the text is changed. */
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
  const told = useRef<string[]>([]); // what the editor said and has not been handed back yet
  useEffect(fetchEditor, []);
  const ready = isReady.value;
  useEffect(() => {
    const setup = { text, language, label, isReadOnly: !hear.current, before: before ?? null };
    box.current?.begin(setup, (changed) => {
      told.current.push(changed);
      hear.current?.(changed);
    });
  }, [ready, before]);
  useEffect(() => {
    // A text that comes back late must not undo what was typed meanwhile.
    const at = told.current.indexOf(text);
    told.current = at < 0 ? [] : told.current.slice(at + 1);
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
