import { render } from "preact";
import { html } from "./html.ts";
import { restoreTheme } from "./parts/theme.ts";
import { listen } from "./router.ts";
import { Shell } from "./shell.ts";
import { start } from "./store.ts";

restoreTheme();
listen();
start();
const place = document.getElementById("app");
if (place) render(html`<${Shell} />`, place);
