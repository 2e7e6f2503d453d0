"use strict";
// A form for each operation of a page of the API, which sends it to the server that shows the page.
// It is made from the server's own /openapi.json; a site without a server has no forms.

// The dashboard keeps its key there, too: in this tab, and sent as a header alone.
const KEY = "quiltfn.key";
const SERVER = new URL(document.documentElement.dataset.content_root + "../", location.href);
const SHOWN_MAX = 200000;

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

const pretty = (text) => {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
};

// What is sent: the address, the headers and the body that the fields of a form say.
function requestOf(path, method, fields, body) {
  const headers = {}, query = new URLSearchParams();
  for (const [one, input] of fields) {
    if (one.in === "path") {
      // A path may be several segments.
      const segments = one.name === "path" ? input.value.split("/") : [input.value];
      path = path.replace(`{${one.name}}`, segments.map(encodeURIComponent).join("/"));
    } else if (input.value && one.in === "query") query.set(one.name, input.value);
    else if (input.value) headers[one.name] = input.value;
  }
  const key = sessionStorage.getItem(KEY);
  if (key) headers["X-Api-Key"] = key;
  if (body) headers["Content-Type"] = "application/json";
  const url = new URL(path.slice(1) + (query.size ? "?" + query : ""), SERVER);
  return [url, { method: method.toUpperCase(), headers, body: body ? body.value : undefined }];
}

// The answer as it comes, so that a stream of events is seen.
async function show(answer, request) {
  const before = performance.now();
  answer.hidden = false;
  answer.textContent = "…";
  try {
    const got = await fetch(...request);
    const took = (performance.now() - before).toFixed(1);
    const head = `${got.status} ${got.statusText}, ${took} ms\n`;
    const reader = got.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      text += part.value;
      answer.textContent = head + text;
      if (text.length > SHOWN_MAX) {
        await reader.cancel();
        text += "\n… and more";
        break;
      }
    }
    answer.textContent = head + pretty(text);
  } catch (error) {
    answer.textContent = String(error);
  }
}

function form(path, method, operation, shared, example) {
  const inside = make("form", { class: "try" });
  const fields = [...shared, ...(operation.parameters || [])].map((one) => {
    const words = one.in === "path" ? one.description : (one.schema.enum || []).join(" or ");
    const placeholder = one.example ?? words;
    const input = make("input", { "aria-label": one.name, placeholder, autocomplete: "off" });
    if (one.required) input.required = true;
    inside.append(make("label", {}, make("code", {}, one.name), input));
    return [one, input];
  });
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  const body = content && make("textarea", { rows: 6, spellcheck: "false", "aria-label": "body" });
  if (body) {
    body.value = pretty(example);
    inside.append(body);
  }
  const answer = make("pre", { hidden: "", tabindex: "0", "aria-label": "answer" });
  inside.append(make("button", {}, "Send"), answer);
  inside.addEventListener("submit", (event) => {
    event.preventDefault();
    show(answer, requestOf(path, method, fields, body));
  });
  return make("details", { class: "try" }, make("summary", {}, "Try it"), inside);
}

// The body of a section's own command.
const exampleIn = (section) => {
  const command = section.querySelector(".highlight-bash pre");
  const found = command && command.textContent.match(/ -d '([^]*)'/);
  return found ? found[1].replaceAll(`'"'"'`, "'") : "{}";
};

function keyField() {
  const input = make("input", { type: "password", autocomplete: "off", placeholder: "quilt_sk_…" });
  input.value = sessionStorage.getItem(KEY) || "";
  input.addEventListener("change", () => {
    if (input.value) sessionStorage.setItem(KEY, input.value);
    else sessionStorage.removeItem(KEY);
  });
  return make("label", { class: "key" }, "API key, where this server has keys; kept in this tab", input);
}

async function addForms() {
  const got = await fetch(new URL("openapi.json", SERVER));
  if (!got.ok) return;
  const { paths } = await got.json();
  let last = null;
  for (const section of document.querySelectorAll("article section > section")) {
    const said = section.querySelector(":scope > p > code");
    const [method, path] = said ? said.textContent.split(" ") : [];
    const operation = path && paths[path] && paths[path][method.toLowerCase()];
    if (!operation) continue;
    const content = operation.requestBody && Object.keys(operation.requestBody.content);
    if (content && !content.includes("application/json")) continue; // bytes: curl can
    const shared = paths[path].parameters || [];
    last = form(path, method, operation, shared, exampleIn(section));
    section.append(last);
  }
  if (last) document.querySelector("article h1").after(keyField());
}

document.addEventListener("DOMContentLoaded", addForms);
