// The frame of the page: which view is open, whether the service is there, and the key.

import { get, hub, setKey } from "./api.js";
import { codesView } from "./codes.js";
import { h, waiting } from "./dom.js";
import { newDomain } from "./fresh.js";
import { loadInfo, state } from "./state.js";
import { trouble } from "./trouble.js";
import { tryIt } from "./try.js";
import { watch } from "./watch.js";
import { why } from "./why.js";

const VIEWS = { try: tryIt, why, codes: codesView, new: newDomain, watch };
const main = document.getElementById("main");
const notice = document.getElementById("notice");
let close = null;

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
    report();
  }
  main.replaceChildren();
  document.title = `${document.querySelector("nav [aria-current]").textContent} · Sidera playground`;
  close = VIEWS[view](main);
  if (focus) main.focus({ preventScroll: true });
}

async function report() {
  const links = document.getElementById("links");
  if (links.querySelector('[href="../report"]')) return;
  try { await get("report"); }
  catch (error) { if (error.status === undefined) throw error; return; }
  links.append(h("a", { href: "../report" }, "Training report"));
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
hub.addEventListener("swapped", async () => {
  state.answer = null;
  const own = h("div", { class: "calm" }, h("span", {}, "Another bundle serves now. Its items, codes and scores may differ."),
    h("button", { type: "button", onclick: () => { own.remove(); open(true); } }, "Show them"));
  notice.replaceChildren(own);
  await loadInfo();
});
hub.addEventListener("locked", () => {
  if (notice.querySelector("form")) return;
  show("away", "locked");
  const input = h("input", { id: "key", type: "password", autocomplete: "off", required: true });
  notice.replaceChildren(h("form", { class: "calm", onsubmit: (event) => { event.preventDefault(); setKey(input.value); notice.replaceChildren(); open(true); } },
    h("div", { class: "grow" }, h("label", { for: "key" }, "API key, kept until the page is reloaded"), input), h("button", { class: "main" }, "Use this key")));
  input.focus();
});

addEventListener("hashchange", () => open(true));
open(false);
