import { useEffect } from "preact/hooks";

/** What the tab of the browser says while a page is open. */
export function useTitle(text: string): void {
  useEffect(() => {
    document.title = `${text} · quiltfn`;
  }, [text]);
}
