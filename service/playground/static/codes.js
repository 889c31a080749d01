// "Codes": what the semantic IDs of a domain stand for, level by level.

import { post } from "./api.js";
import { compare } from "./compare.js";
import { bar, count, empty, fresh, h, named, waiting } from "./dom.js";
import { finder } from "./finder.js";
import { itemMap } from "./map.js";
import { state } from "./state.js";
import { trouble } from "./trouble.js";
import { zoom } from "./zoom.js";

export function codesView(root) {
  let running = new AbortController();
  const [compared, stopCompare] = compare();
  const [mapped, stopMap] = itemMap((item) => {
    domain = select.value = item.domain;
    begin(item.sid, item);
    columns.scrollIntoView({ block: "center" });
    columns.focus({ preventScroll: true });
  });
  let domain = state.domain;
  const columns = h("div", { class: "columns", tabindex: "-1" });
  const zoomed = zoom((prefix) => begin(prefix));
  const levels = state.info.tokenizer.codebook_sizes.length;
  const select = h("select", { id: fresh("domain"), onchange: () => { domain = select.value; begin([]); } },
    state.info.domains.map(({ name }) => h("option", { value: name }, name)));
  select.value = domain;
  root.append(h("h1", {}, "What the codes mean"),
    h("p", { class: "lead" }, `An item's semantic ID is ${levels} codes, from coarse to fine: items that begin alike are alike. Open a code to see what lies below it; the words are those that stand out there.`),
    h("div", { class: "row" }, h("div", { class: "grow" }, h("label", { for: select.id }, "Domain"), select),
      h("div", { class: "grow" }, finder({ label: "Go to an item", hint: "Words of a title, or an id", domain: () => domain, onpick: (item) => begin(item.sid, item) }))),
    h("div", { class: "gap" }), zoomed.box, columns, h("div", { class: "gap" }), compared, mapped);

  async function begin(sid, item) {
    running.abort();
    running = new AbortController();
    const { signal } = running;
    columns.replaceChildren();
    zoomed.cut(0);
    for (let level = 0; level < levels; level += 1) {
      if (level > 0 && sid.length < level) break;
      await column(sid.slice(0, level), sid[level], signal, item);
      if (signal.aborted) return;
    }
  }

  async function column(prefix, chosen, signal, item) {
    const box = h("section", { class: "column", "aria-label": prefix.length ? `Below ${prefix.join(" · ")}` : "First code" }, h("div", { class: "card-in" }, waiting(6)));
    columns.append(box);
    try {
      const { answer } = await post("codes", { domain, prefix }, signal);
      const most = Math.max(...answer.codes.map((code) => code.items));
      const rows = answer.codes.slice().sort((one, other) => other.items - one.items || one.code - other.code);
      const last = prefix.length === levels - 1;
      zoomed.add(answer, rows, chosen);
      box.replaceChildren(
        h("h2", {}, prefix.length ? prefix.join(" · ") : "All items"),
        h("p", { class: "soft small" }, `${count(answer.items)} ${answer.items === 1 ? "item" : "items"}, ${answer.codes.length} ${answer.codes.length === 1 ? "code" : "codes"} at level ${prefix.length + 1}`),
        h("ul", {}, rows.map((code) => h("li", {}, entry(code, prefix, last, most, code.code === chosen, item)))));
      const pressed = box.querySelector('[aria-pressed="true"]'), list = box.querySelector("ul");
      if (pressed) list.scrollTop += pressed.getBoundingClientRect().top - list.getBoundingClientRect().top - 8;
      columns.scrollLeft = columns.scrollWidth;
    } catch (error) {
      if (error.name !== "AbortError") box.replaceChildren(trouble(error, () => { box.remove(); column(prefix, chosen, signal, item); }));
    }
  }

  function entry(code, prefix, last, most, chosen, item) {
    const open = async (event) => {
      const own = event.currentTarget, box = own.closest(".column");
      while (box.nextSibling) box.nextSibling.remove();
      box.querySelectorAll(".code").forEach((one) => one.setAttribute("aria-pressed", String(one === own)));
      zoomed.cut(prefix.length + 1, code.code);
      if (!last) await column([...prefix, code.code], undefined, running.signal);
    };
    const examples = last && chosen && item ? named(item) : code.examples.map(named).join(", ");
    const about = code.words.length ? code.words.join(", ") : last ? examples : "no words stand out";
    return h("button", { type: "button", class: "code", "aria-pressed": String(chosen), onclick: open },
      h("b", {}, code.code), h("span", {}, about), h("span", { class: "soft small" }, count(code.items)),
      last && !code.words.length ? null : h("span", { class: "ex" }, examples), last ? null : bar(code.items / most, "meter"));
  }

  if (!state.info.domains.length) columns.replaceChildren(empty("No items yet", "Register some under New domain."));
  else begin([]);
  return () => { running.abort(); stopCompare(); stopMap(); };
}
