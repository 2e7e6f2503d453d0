// Limits the length of pasted text, since laying out 10 MB in one line blocks the page for a
// minute.
import { bytes } from "../text/format.ts";
import { toastError } from "./toast.ts";

export const PASTED_MAX = 1024 * 1024; // characters

/** Rejects text that is too long for a field, with a message. */
export function refuseLong(event: ClipboardEvent): void {
  const text = event.clipboardData?.getData("text/plain") ?? "";
  if (text.length <= PASTED_MAX) return;
  event.preventDefault();
  toastError(
    new Error(
      `${bytes(text.length)} are too long for this field, which takes ${bytes(PASTED_MAX)}: ` +
        "send it with quiltfn invoke --payload-file, or through the API.",
    ),
  );
}
