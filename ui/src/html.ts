// Markup without innerHTML: a template becomes calls of h(), and text stays text.
import htm from "htm";
import { h, type VNode } from "preact";

type Html = (strings: TemplateStringsArray, ...values: unknown[]) => VNode;

// What htm says of itself is for CommonJS.
export const html = (htm as unknown as { bind(to: typeof h): Html }).bind(h);
