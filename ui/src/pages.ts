// Every page: where it is, and where its code is. Code is fetched when a page is first opened.
import type { ComponentType } from "preact";
import { who } from "./store.ts";

export type PageProps = Record<string, string>;

export interface Page {
  /** Its address behind #/; `:id` is a part that the page gets as a property. */
  pattern: string;
  title: string;
  /** The name of its place in the navigation; a page without one belongs to that of `under`. */
  nav?: string;
  under?: string;
  /** Whether the navigation names it; always, by default. */
  isNamed?: () => boolean;
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
    pattern: "functions",
    title: "Functions",
    under: "Functions",
    load: () => import("./pages/functions.ts"),
  },
  {
    pattern: "functions/new",
    title: "New function",
    under: "Functions",
    load: () => import("./pages/new.ts"),
  },
  {
    pattern: "functions/:function_id",
    title: "Function",
    under: "Functions",
    load: () => import("./pages/function.ts"),
  },
  {
    pattern: "functions/:function_id/:section",
    title: "Function",
    under: "Functions",
    load: () => import("./pages/function.ts"),
  },
  {
    pattern: "functions/:function_id/invocations/:invocation_id",
    title: "Invocation",
    under: "Invocations",
    load: () => import("./pages/invocation.ts"),
  },
  {
    pattern: "invocations",
    title: "Invocations",
    nav: "Invocations",
    load: () => import("./pages/invocations.ts"),
  },
  {
    pattern: "schedules",
    title: "Schedules",
    nav: "Schedules",
    load: () => import("./pages/schedules.ts"),
  },
  {
    pattern: "new-schedule",
    title: "New schedule",
    under: "Schedules",
    load: () => import("./pages/new_schedule.ts"),
  },
  {
    pattern: "schedules/:name",
    title: "Schedule",
    under: "Schedules",
    load: () => import("./pages/schedule.ts"),
  },
  {
    pattern: "runtimes",
    title: "Runtimes",
    nav: "Runtimes",
    load: () => import("./pages/runtimes.ts"),
  },
  {
    pattern: "runtimes/:name",
    title: "Runtime",
    under: "Runtimes",
    load: () => import("./pages/runtime.ts"),
  },
  {
    pattern: "usage",
    title: "Usage",
    nav: "Usage",
    load: () => import("./pages/usage.ts"),
  },
  {
    pattern: "keys",
    title: "Keys",
    nav: "Keys",
    load: () => import("./pages/keys.ts"),
  },
  {
    pattern: "audit",
    title: "Audit",
    nav: "Audit",
    load: () => import("./pages/audit.ts"),
  },
  {
    pattern: "node",
    title: "Node",
    nav: "Node",
    load: () => import("./pages/node.ts"),
  },
  {
    pattern: "fleet",
    title: "Fleet",
    nav: "Fleet",
    isNamed: () => who.value?.offers.includes("fleet") ?? false,
    load: () => import("./pages/fleet.ts"),
  },
  {
    pattern: "fleet/:name",
    title: "Node of the fleet",
    under: "Fleet",
    load: () => import("./pages/fleet_node.ts"),
  },
];
