// Asks for confirmation before an action.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { html } from "../../html.ts";

export interface Question {
  title: string;
  /** The consequences of the action. */
  text: string;
  /** The verb on the button. */
  verb: string;
}

interface Asked extends Question {
  answer: (isYes: boolean) => void;
}

export const asked = signal<Asked | null>(null);

/** Asks, and returns whether the user agreed. If another question is asked meanwhile, returns
 * false.
 */
export function confirm(question: Question): Promise<boolean> {
  asked.peek()?.answer(false);
  return new Promise((resolve) => {
    asked.value = {
      ...question,
      answer: (isYes) => {
        asked.value = null;
        resolve(isYes);
      },
    };
  });
}

export function Confirm() {
  const question = asked.value;
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (question && dialog.current && !dialog.current.open) dialog.current.showModal();
  }, [question]);
  if (!question) return null;
  return html`
    <dialog class="confirm card" ref=${dialog} aria-labelledby="confirm-title"
      aria-describedby="confirm-text" onClose=${() => question.answer(false)}>
      <h2 id="confirm-title">${question.title}</h2>
      <p id="confirm-text">${question.text}</p>
      <div
        class="actions"><button class="button" type="button" autofocus onClick=${() =>
          question.answer(false)}>Cancel</button>
          <button class="button danger" type="button" onClick=${() =>
            question.answer(true)}>${question
            .verb}</button></div>
    </dialog>
  `;
}
