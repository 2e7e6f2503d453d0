// Saves a response as a file, since a link can't send the key.
import { type Query, send } from "../../api.ts";

const KEPT_MS = 60_000;

export async function download(path: string, query: Query, name: string): Promise<void> {
  const response = await send("GET", path, { query });
  save(await response.blob(), name);
}

/** Saves content that the page has generated. */
export function save(content: Blob, name: string): void {
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), KEPT_MS);
}
