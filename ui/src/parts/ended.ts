// What a call in a list ended with. A list has no output: what a handler raised is asked for row by row.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { html } from "../html.ts";
import { isExit, raisedOf } from "../raised.ts";
import { visible } from "./ansi.ts";
import { callPath } from "./call.ts";

const SEEN_MS = 150; // a row that only scrolls by is not asked for

/** `message`: the server's, or what is said in its place. */
export function Ended({ functionId, id, message }: {
  functionId: string;
  id: string;
  message: string | null;
}) {
  const raised = useSignal<string | null>(null);
  const isAsked = isExit(message);
  useEffect(() => {
    raised.value = null;
    if (!isAsked) return;
    let isHere = true;
    const timer = setTimeout(async () => {
      const found = await raisedOf(callPath(functionId, id));
      if (isHere) raised.value = found;
    }, SEEN_MS);
    return () => {
      isHere = false;
      clearTimeout(timer);
    };
  }, [functionId, id, isAsked]);
  return html`${visible(raised.value ?? message ?? "")}`;
}
