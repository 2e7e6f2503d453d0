// CodeMirror as the element <q-code>, loaded on first use. In its shadow root, the styles are a
// constructed sheet, which a strict policy allows. In the document, they would be a <style>
// element.
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { javascript } from "@codemirror/lang-javascript";
import { python } from "@codemirror/lang-python";
import {
  bracketMatching,
  HighlightStyle,
  indentOnInput,
  indentUnit,
  StreamLanguage,
  syntaxHighlighting,
} from "@codemirror/language";
import { shell } from "@codemirror/legacy-modes/mode/shell";
import { unifiedMergeView } from "@codemirror/merge";
import {
  Compartment,
  EditorState,
  type Extension,
  StateEffect,
  StateField,
} from "@codemirror/state";
import {
  Decoration,
  type DecorationSet,
  drawSelection,
  EditorView,
  highlightActiveLine,
  keymap,
  lineNumbers,
} from "@codemirror/view";
import { tags } from "@lezer/highlight";

const LANGUAGES: Record<string, () => Extension> = {
  python: () => [python(), indentUnit.of("    ")],
  node: () => javascript(),
  shell: () => StreamLanguage.define(shell),
};
const ground = (share: string, name: string) =>
  `color-mix(in oklab, var(--${name}) ${share}, transparent)`;
const look = EditorView.theme({
  "&": {
    font: "var(--t-1)/1.55 var(--mono)",
    color: "var(--text)",
    backgroundColor: "var(--output)",
  },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "inherit", lineHeight: "inherit" },
  ".cm-content, .cm-gutter": { minHeight: "var(--code-height, 14rem)" },
  ".cm-gutters": {
    backgroundColor: "var(--output)",
    color: "var(--quiet)",
    border: "0",
    paddingLeft: "6px",
  },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: ground("60%", "raised") },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: `${ground("25%", "accent")} !important`,
  },
  ".cm-markedLine": {
    backgroundColor: ground("16%", "bad"),
    boxShadow: "inset 3px 0 var(--bad)",
  },
  ".cm-changedLine": { backgroundColor: ground("12%", "good") },
  ".cm-changedText": { background: ground("24%", "good") },
  ".cm-deletedChunk": { backgroundColor: ground("12%", "bad") },
  ".cm-deletedChunk .cm-deletedText": { background: ground("24%", "bad") },
});
const { keyword, operatorKeyword, modifier, string, special, number, bool, comment } = tags;
const { function: fn, definition, variableName, className } = tags;
const colours = syntaxHighlighting(HighlightStyle.define([
  { tag: [keyword, operatorKeyword, modifier], color: "var(--memory)" },
  { tag: [string, special(string)], color: "var(--good)" },
  { tag: [number, bool, tags.null], color: "var(--slow)" },
  { tag: [fn(variableName), definition(fn(variableName)), className], color: "var(--busy)" },
  { tag: comment, color: "var(--quiet)", fontStyle: "italic" },
]));
const languageOf = (name: string): Extension =>
  (LANGUAGES[name] ?? LANGUAGES.shell ?? (() => []))();

const mark = StateEffect.define<number | null>();
const markedLine = Decoration.line({ class: "cm-markedLine" });
/** The line that is marked, until the text changes. */
const marked = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(before, change) {
    for (const effect of change.effects) {
      if (!effect.is(mark)) continue;
      const number = effect.value;
      if (number === null || number > change.state.doc.lines) return Decoration.none;
      return Decoration.set(markedLine.range(change.state.doc.line(number).from));
    }
    return change.docChanged ? Decoration.none : before;
  },
  provide: (field) => EditorView.decorations.from(field),
});

/** Replaces a selection in place of the browser, which would keep the formatting of the replaced
 * text in a style attribute, and a strict policy refuses that.
 */
function typeOver(event: InputEvent, view: EditorView): boolean {
  const { state } = view;
  if (event.inputType !== "insertText" || event.data === null || state.readOnly) return false;
  if (state.selection.main.empty) return false;
  event.preventDefault();
  const how = { userEvent: "input.type", scrollIntoView: true };
  view.dispatch(state.replaceSelection(event.data), how);
  return true;
}

/** The options of <q-code>. `before`: the text to compare with. */
export interface Setup {
  text: string;
  language: string;
  label: string;
  isReadOnly: boolean;
  before: string | null;
}

export class CodeEditor extends HTMLElement {
  #view: EditorView | null = null;
  #language = new Compartment();
  #isBeingSet = false;

  /** Creates the editor; the element must be in the document. `onText`: called when the user changes the
   * text.
   */
  begin(setup: Setup, onText: (text: string) => void): void {
    const root = this.shadowRoot ?? this.attachShadow({ mode: "open", delegatesFocus: true });
    this.#view?.destroy();
    this.#view = new EditorView({
      root,
      parent: root,
      state: EditorState.create({ doc: setup.text, extensions: this.#extensions(setup, onText) }),
    });
  }

  #extensions(setup: Setup, onText: (text: string) => void): Extension[] {
    const { language, label, isReadOnly, before } = setup;
    return [
      lineNumbers(),
      history(),
      drawSelection(),
      isReadOnly ? [EditorState.readOnly.of(true)] : highlightActiveLine(),
      bracketMatching(),
      indentOnInput(),
      look,
      colours,
      marked,
      this.#language.of(languageOf(language)),
      before === null ? [] : unifiedMergeView({ original: before, mergeControls: false }),
      // Tab has no binding, so that it leaves the editor. Ctrl Enter does nothing, since the page
      // handles it.
      keymap.of([{ key: "Mod-Enter", run: () => true }, ...defaultKeymap, ...historyKeymap]),
      EditorView.contentAttributes.of({ "aria-label": label }),
      EditorView.domEventHandlers({ beforeinput: typeOver }),
      EditorView.updateListener.of((update) => {
        if (update.docChanged && !this.#isBeingSet) onText(update.state.doc.toString());
      }),
    ];
  }

  /** Sets the text. If the text is unchanged, the cursor stays. */
  set text(text: string) {
    const doc = this.#view?.state.doc;
    if (!doc || doc.toString() === text) return;
    this.#isBeingSet = true;
    this.#view?.dispatch({ changes: { from: 0, to: doc.length, insert: text } });
    this.#isBeingSet = false;
  }

  /** Marks a line and scrolls to it; null: none. */
  set markedLine(number: number | null) {
    const view = this.#view;
    if (!view) return;
    view.dispatch({ effects: mark.of(number) });
    if (number === null || number > view.state.doc.lines) return;
    const { from } = view.state.doc.line(number);
    view.dispatch({ effects: EditorView.scrollIntoView(from, { y: "nearest" }) });
  }

  set language(name: string) {
    this.#view?.dispatch({ effects: this.#language.reconfigure(languageOf(name)) });
  }

  disconnectedCallback(): void {
    this.#view?.destroy();
    this.#view = null;
  }
}

customElements.define("q-code", CodeEditor);
