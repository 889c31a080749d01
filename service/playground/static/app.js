// The frame of the page: which view is open, whether the service is there, and the key.

import { hub, setKey } from "./api.js";
import { codesView } from "./codes.js";
import { h, waiting } from "./dom.js";
import { newDomain } from "./fresh.js";
import { report } from "./report.js";
import { loadInfo, state } from "./state.js";
import { trouble } from "./trouble.js";
import { tryIt } from "./try.js";
import { watch } from "./watch.js";
import { why } from "./why.js";

const VIEWS = { try: tryIt, why, codes: codesView, new: newDomain, watch };
const main = document.getElementById("main");
const notice = document.getElementById("notice");
const EVERY = 10_000; // milliseconds between looks at what serves
let close = null, looking = false;

async function open(focus) {
  const name = location.hash.slice(1);
  if (name === "main") return;
  const view = VIEWS[name] ? name : "try";
  close?.();
  close = null;
  document.querySelectorAll("nav a").forEach((link) => {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  if (!state.info) {
    main.replaceChildren(waiting(5));
    try { await loadInfo(); }
    catch (error) { main.replaceChildren(trouble(error, error.status === 401 ? undefined : open)); return; }
    report(document.getElementById("report"));
  }
  main.replaceChildren();
  document.title = `${document.querySelector("nav [aria-current]").textContent} · Sidera playground`;
  close = VIEWS[view](main);
  if (focus) main.focus({ preventScroll: true });
}

// Asks what serves, so that a swap is told even while nothing is done here.
async function look() {
  if (looking || document.hidden || !state.info || notice.querySelector("form")) return;
  looking = true;
  try { await loadInfo(); }
  catch (error) { if (error.status === undefined) throw error; }
  finally { looking = false; }
}

function show(kind, text) {
  document.querySelector("#state .dot").className = `dot ${kind}`;
  document.getElementById("state-text").textContent = text;
}

hub.addEventListener("here", () => show("ready", "ready"));
hub.addEventListener("away", () => show("away", "no answer"));
hub.addEventListener("info", () => {
  document.getElementById("served").textContent = `Bundle ${state.info.bundle_version.slice(0, 12)}, catalog version ${state.info.catalog_version}`;
});
hub.addEventListener("swapped", () => {
  state.answer = null;
  const own = h("div", { class: "calm" }, h("span", {}, "Another bundle serves now. Its items, codes and scores may differ."),
    h("button", { type: "button", onclick: () => { own.remove(); state.info = null; open(true); } }, "Show them"));
  notice.replaceChildren(own);
  look();
});
hub.addEventListener("doubt", look);
hub.addEventListener("locked", () => {
  if (notice.querySelector("form")) return;
  show("away", "locked");
  const input = h("input", { id: "key", type: "password", autocomplete: "off", required: true }), said = h("span", { role: "alert" });
  notice.replaceChildren(h("form", { class: "calm", onsubmit: (event) => { event.preventDefault(); if (setKey(input.value)) { notice.replaceChildren(); open(true); } else { said.textContent = "A key has letters, digits and signs of ASCII alone."; input.focus(); } } },
    h("div", { class: "grow" }, h("label", { for: "key" }, "API key, kept until the page is reloaded"), input, said), h("button", { class: "main" }, "Use this key")));
  input.focus();
});

addEventListener("hashchange", () => open(true));
setInterval(look, EVERY);
open(false);
