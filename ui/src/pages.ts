// Every page: its address, and the module with its code. Code is fetched when a page is first
// opened.
import type { ComponentType } from "preact";
import type { PageProps } from "./page_props.ts";
import { who } from "./store.ts";

export interface Page {
  /** Its address after #/; the page gets a part such as `:id` as a property. */
  pattern: string;
  title: string;
  /** Its entry in the navigation; a page without an entry belongs to `under`. */
  nav?: string;
  under?: string;
  /** Path of its documentation page, below docs/ and without its suffix. */
  docs: string;
  /** The same for sections with a documentation page of their own. */
  docsOf?: Record<string, string>;
  /** Whether the navigation shows it (default: always). */
  isNamed?: () => boolean;
  load: () => Promise<{ default: ComponentType<PageProps> }>;
}

export const PAGES: Page[] = [
  {
    pattern: "",
    docs: "how-to/dashboard",
    title: "Functions",
    nav: "Functions",
    load: () => import("./pages/functions.ts"),
  },
  {
    pattern: "functions",
    docs: "how-to/dashboard",
    title: "Functions",
    under: "Functions",
    load: () => import("./pages/functions.ts"),
  },
  {
    pattern: "functions/new",
    docs: "tutorial",
    title: "New function",
    under: "Functions",
    load: () => import("./pages/new.ts"),
  },
  {
    pattern: "functions/:function_id",
    docs: "how-to/dashboard",
    title: "Function",
    under: "Functions",
    load: () => import("./pages/function.ts"),
  },
  {
    pattern: "functions/:function_id/:section",
    docs: "how-to/dashboard",
    docsOf: {
      settings: "reference/handlers",
      versions: "how-to/versions-and-aliases",
      scaling: "how-to/slow-calls",
      async: "how-to/asynchronous-calls",
      schedules: "how-to/schedules",
      network: "how-to/urls-and-webhooks-in",
    },
    title: "Function",
    under: "Functions",
    load: () => import("./pages/function.ts"),
  },
  {
    pattern: "functions/:function_id/invocations/:invocation_id",
    docs: "how-to/records",
    title: "Invocation",
    under: "Invocations",
    load: () => import("./pages/invocation.ts"),
  },
  {
    pattern: "invocations",
    docs: "how-to/records",
    title: "Invocations",
    nav: "Invocations",
    load: () => import("./pages/invocations.ts"),
  },
  {
    pattern: "schedules",
    docs: "how-to/schedules",
    title: "Schedules",
    nav: "Schedules",
    load: () => import("./pages/schedules.ts"),
  },
  {
    pattern: "new-schedule",
    docs: "how-to/schedules",
    title: "New schedule",
    under: "Schedules",
    load: () => import("./pages/new_schedule.ts"),
  },
  {
    pattern: "schedules/:name",
    docs: "how-to/schedules",
    title: "Schedule",
    under: "Schedules",
    load: () => import("./pages/schedule.ts"),
  },
  {
    pattern: "runtimes",
    docs: "how-to/runtimes",
    title: "Runtimes",
    nav: "Runtimes",
    load: () => import("./pages/runtimes.ts"),
  },
  {
    pattern: "runtimes/:name",
    docs: "how-to/runtimes",
    title: "Runtime",
    under: "Runtimes",
    load: () => import("./pages/runtime.ts"),
  },
  {
    pattern: "usage",
    docs: "how-to/usage",
    title: "Usage",
    nav: "Usage",
    load: () => import("./pages/usage.ts"),
  },
  {
    pattern: "keys",
    docs: "how-to/keys",
    title: "Keys",
    nav: "Keys",
    load: () => import("./pages/keys.ts"),
  },
  {
    pattern: "audit",
    docs: "how-to/keys",
    title: "Audit",
    nav: "Audit",
    load: () => import("./pages/audit.ts"),
  },
  {
    pattern: "node",
    docs: "how-to/monitoring",
    title: "Node",
    nav: "Node",
    load: () => import("./pages/node.ts"),
  },
  {
    pattern: "fleet",
    docs: "how-to/fleet",
    title: "Fleet",
    nav: "Fleet",
    isNamed: () => who.value?.offers.includes("fleet") ?? false,
    load: () => import("./pages/fleet.ts"),
  },
  {
    pattern: "fleet/:name",
    docs: "how-to/fleet",
    title: "Node of the fleet",
    under: "Fleet",
    load: () => import("./pages/fleet_node.ts"),
  },
];
