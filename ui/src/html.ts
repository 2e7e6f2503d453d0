// Markup without innerHTML: templates become calls of h(), so text is never parsed as markup.
import htm from "htm";
import { h, type VNode } from "preact";

type Html = (strings: TemplateStringsArray, ...values: unknown[]) => VNode;

// htm's own type declarations are for CommonJS.
export const html = (htm as unknown as { bind(to: typeof h): Html }).bind(h);
