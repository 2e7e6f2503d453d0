"use strict";
// A page that is parsed and not shown: no text is made HTML of here.
// deno-lint-ignore no-unused-vars -- the search calls it
const fetchDocument = (url) =>
  new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", url);
    request.responseType = "document";
    request.onload = () => resolve(request.response);
    request.onerror = reject;
    request.send();
  });

// The policy of these pages lets no form be sent; what is searched for is in the address.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches(".sidebar-search-container")) return;
  event.preventDefault();
  location.assign(form.action + "?q=" + encodeURIComponent(form.elements.q.value));
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, textarea")) return;
  event.preventDefault();
  document.querySelector(".sidebar-search").focus();
});

// Commands and programs can be copied, where a page may: on loopback and behind TLS.
document.addEventListener("DOMContentLoaded", () => {
  if (!navigator.clipboard) return;
  for (const block of document.querySelectorAll("div[class^=highlight]:not(.highlight-text) > div.highlight")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("pre").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    block.append(button);
  }
});
