// The report of training: a link; where a key is needed, which a link cannot send, a button that saves it as a file.

import { ask, get, hasKey } from "./api.js";
import { h } from "./dom.js";
import { state } from "./state.js";
import { trouble } from "./trouble.js";

// What it says of the policy is the same in a file, but for what a browser reads in a header alone.
const inFile = (policy) => policy.split(";").filter((rule) => !/frame-ancestors|sandbox/.test(rule)).join(";");

// A page that is opened from memory would be under this page's policy, and its plots would not show.
async function save(place) {
  try {
    const { answer, policy } = await get("report");
    const text = answer.replace(/^\s*<!doctype[^>]*>|^/i, (begin) => `${begin}<meta http-equiv="content-security-policy" content="${inFile(policy)}">`);
    const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: "text/html" })), download: `sidera-report-${state.info.bundle_version.slice(0, 12)}.html` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    place.replaceChildren(button(place), " ", h("span", { role: "status" }, "Saved; it opens without the service."));
  } catch (error) { place.replaceChildren(trouble(error, () => save(place))); }
}

const button = (place) => h("button", { type: "button", class: "link", onclick: () => save(place) }, "Save the training report");

// Fills the place, if the bundle has a report.
export async function report(place) {
  place.replaceChildren();
  try { await ask("HEAD", "report"); }
  catch (error) { if (error.status === undefined) throw error; return; }
  place.replaceChildren(hasKey() ? button(place) : h("a", { href: "../report" }, "Training report"));
}
