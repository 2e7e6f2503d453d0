import { useEffect } from "preact/hooks";

/** The title of the browser tab while a page is open. */
export function useTitle(text: string): void {
  useEffect(() => {
    document.title = `${text} · quiltfn`;
  }, [text]);
}
