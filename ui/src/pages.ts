// Every page: where it is, and where its code is. Code is fetched when a page is first opened.
import type { ComponentType } from "preact";

export type PageProps = Record<string, string>;

export interface Page {
  /** Its address behind #/; `:id` is a part that the page gets as a property. */
  pattern: string;
  title: string;
  /** The name of its place in the navigation; a page without one belongs to that of `under`. */
  nav?: string;
  under?: string;
  load: () => Promise<{ default: ComponentType<PageProps> }>;
}

export const PAGES: Page[] = [
  {
    pattern: "",
    title: "Functions",
    nav: "Functions",
    load: () => import("./pages/functions.ts"),
  },
  {
    pattern: "functions/new",
    title: "New function",
    under: "Functions",
    load: () => import("./pages/new.ts"),
  },
];
