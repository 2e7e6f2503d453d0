"use strict";
// Before anything is drawn.
document.body.dataset.theme = localStorage.getItem("theme") || "auto";
