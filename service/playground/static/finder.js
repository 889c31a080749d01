// A search box whose list is used by keyboard or pointer: the combobox of the ARIA practices.

import { post } from "./api.js";
import { fresh, h, named } from "./dom.js";

const PAUSE = 150;

export function finder({ label, hint, domain, onpick }) {
  const id = fresh("find");
  const list = h("ul", { class: "found", id: `${id}-list`, role: "listbox", "aria-label": "Found items", hidden: true });
  const said = h("p", { class: "hear", role: "status" });
  const input = h("input", {
    id, type: "search", role: "combobox", autocomplete: "off", spellcheck: "false", maxlength: "200", placeholder: hint,
    "aria-expanded": "false", "aria-controls": list.id, "aria-autocomplete": "list",
  });
  let items = [], at = -1, timer = 0, running = null;

  const close = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); at = -1; };
  const open = () => { list.hidden = false; input.setAttribute("aria-expanded", "true"); };
  const mark = (place) => {
    at = place;
    [...list.children].forEach((child, row) => child.setAttribute("aria-selected", String(row === at)));
    input.setAttribute("aria-activedescendant", `${id}-${at}`);
    list.children[at].scrollIntoView({ block: "nearest" });
  };
  const pick = (item) => { input.value = ""; close(); onpick(item); input.focus(); };
  const show = () => {
    list.replaceChildren(...items.map((item, row) =>
      h("li", { role: "option", id: `${id}-${row}`, "aria-selected": "false", onpointerdown: (event) => { event.preventDefault(); pick(item); } },
        named(item), " ", h("span", { class: "tag" }, item.domain, item.hidden ? ", hidden" : ""))));
    said.textContent = items.length ? `${items.length} items found` : "Nothing found";
    if (!items.length) list.append(h("li", { class: "none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, "Nothing has these words. Try fewer letters."));
    open();
  };
  const look = async () => {
    running?.abort();
    const text = input.value;
    if (!text.trim()) { items = []; close(); return; }
    running = new AbortController();
    try {
      const body = { text, num_results: 8 };
      if (domain?.()) body.domain = domain();
      items = (await post("search", body, running.signal)).answer.items;
      at = -1;
      show();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === undefined) throw error;
      items = [];
      list.replaceChildren(h("li", { class: "none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, error.message));
      open();
      if (error.status === 503 || error.status === 429) timer = setTimeout(look, 1000 * (error.retryAfter || 1));
    }
  };
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, PAUSE); });
  input.addEventListener("blur", () => setTimeout(close, 100));
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { close(); return; }
    if (list.hidden || !items.length) return;
    if (event.key === "ArrowDown") { event.preventDefault(); mark((at + 1) % items.length); }
    else if (event.key === "ArrowUp") { event.preventDefault(); mark((at <= 0 ? items.length : at) - 1); }
    else if (event.key === "Enter") { event.preventDefault(); pick(items[Math.max(at, 0)]); }
  });
  return h("div", {}, h("label", { for: id }, label), h("div", { class: "find" }, input, list), said);
}

