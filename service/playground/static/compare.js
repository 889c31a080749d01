// Two items' codes side by side, with what each code stands for.

import { hub, post } from "./api.js";
import { codes, empty, h, named, waiting } from "./dom.js";
import { finder } from "./finder.js";
import { trouble } from "./trouble.js";

const kept = [null, null];
hub.addEventListener("swapped", () => kept.fill(null)); // the codes of another bundle are others

export function compare() {
  const running = new AbortController();
  const told = h("div", { role: "status" });
  const names = [0, 1].map(() => h("p", { class: "soft small" }));
  const find = ["First item", "Second item"].map((label, at) => h("div", { class: "grow" },
    finder({ label, hint: "Words of a title, or an id", onpick: (item) => { kept[at] = item; show(); } }), names[at]));

  // The words of the code at each level of an item's semantic ID.
  const words = (item) => Promise.all(item.sid.map(async (code, level) => {
    const { answer } = await post("codes", { domain: item.domain, prefix: item.sid.slice(0, level) }, running.signal);
    const own = answer.codes.find((one) => one.code === code);
    return own ? own.words.join(", ") : "";
  }));

  async function show() {
    kept.forEach((item, at) => { names[at].textContent = item ? `${named(item)}, ${item.domain}` : "None chosen"; });
    const [one, other] = kept;
    if (!one || !other) { told.replaceChildren(empty("Choose two items", "They may be of different domains: the codes mean the same in all.")); return; }
    told.replaceChildren(waiting(3));
    try {
      const [first, second] = await Promise.all([words(one), words(other)]);
      const differs = one.sid.findIndex((code, level) => code !== other.sid[level]);
      const alike = differs < 0 ? one.sid.length : differs;
      const cell = (code, said) => h("td", {}, h("strong", {}, code), said ? h("span", { class: "soft small" }, ` ${said}`) : null);
      told.replaceChildren(
        h("p", {}, alike ? `They begin with the same ${alike === 1 ? "code" : `${alike} codes`} of ${one.sid.length}: ${codes(one.sid.slice(0, alike))}.` : "They differ from the first code on."),
        h("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "Codes side by side" }, h("table", {},
          h("thead", {}, h("tr", {}, ["Level", named(one), named(other), "Same"].map((title) => h("th", { scope: "col" }, title)))),
          h("tbody", {}, one.sid.map((code, level) => h("tr", {}, h("th", { scope: "row" }, level + 1), cell(code, first[level]), cell(other.sid[level], second[level]),
            h("td", {}, code !== other.sid[level] ? "no" : level < alike ? h("span", { class: "badge" }, "yes") : "yes, but behind others")))))));
    } catch (error) {
      if (error.name !== "AbortError") told.replaceChildren(trouble(error, show));
    }
  }

  show();
  const box = h("section", { class: "card", "aria-label": "Compare two items" }, h("h2", {}, "Compare two items"), h("div", { class: "row top-row" }, find), told);
  return [box, () => running.abort()];
}
