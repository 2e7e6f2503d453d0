import { render } from "preact";
import { html } from "./html.ts";
import { restoreTheme } from "./parts/controls/theme.ts";
import { askBeforeLeaving } from "./editing.ts";
import { listen } from "./router.ts";
import { Shell } from "./shell.ts";
import { start } from "./store.ts";

restoreTheme();
listen();
askBeforeLeaving();
start();
const place = document.getElementById("app");
if (place) render(html`<${Shell} />`, place);
