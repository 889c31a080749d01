// The open part of the trie as strips, one a level: a code is as wide as it has items, and the strip below is it, enlarged.

import { count, h } from "./dom.js";

const SHOWN = 200;

export function zoom(onopen) {
  const way = h("p", { class: "way" });
  const strips = h("div", { "aria-hidden": "true" }); // the columns below tell the same
  let prefix = [];

  const follow = () => way.replaceChildren(...[null, ...prefix].map((code, level) =>
    h("button", { type: "button", class: "plain", onclick: () => onopen(prefix.slice(0, level)) }, code === null ? "All items" : `› ${code}`)));

  // Keeps so many strips; `code` is the one that is opened in the last of them.
  function cut(levels, code) {
    while (strips.children.length > levels) strips.lastChild.remove();
    prefix = prefix.slice(0, Math.max(0, levels - 1));
    if (code !== undefined) {
      prefix.push(code);
      for (const cell of strips.lastChild?.children || []) cell.classList.toggle("open", cell.dataset.code === String(code));
    }
    follow();
  }

  function add(answer, rows, chosen) {
    const room = strips.clientWidth / answer.items;
    const fits = (text, items) => String(text).length * 8 + 6 < room * items;
    const strip = h("div", { class: "strip" }, rows.slice(0, SHOWN).map((one) => {
      const texts = [`${one.code} ${one.words[0] || ""}`, one.code];
      const cell = h("span", { class: one.code === chosen ? "cell open" : "cell", "data-code": one.code, title: `${one.code}: ${count(one.items)} items. ${one.words.join(", ")}`,
        onclick: () => onopen([...answer.prefix, one.code]) }, texts.find((text) => fits(text, one.items)));
      cell.style.flexGrow = one.items;
      return cell;
    }));
    strips.append(strip);
    prefix = [...answer.prefix, ...(chosen === undefined ? [] : [chosen])];
    follow();
  }

  return { box: h("div", { class: "zoom" }, way, strips), add, cut };
}
