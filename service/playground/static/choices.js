// Filters and exclusions: what must, and what must not, come back.

import { post } from "./api.js";
import { chip, count, fresh, h, named, waiting } from "./dom.js";
import { state } from "./state.js";
import { trouble } from "./trouble.js";

const limit = (number) => Number(number.toPrecision(6));

export function choices(changed) {
  let told = { domain: "", fields: [] }, running = null;
  const own = () => (state.filters[state.domain] ??= {});
  const kept = h("ul", { class: "chips", "aria-label": "Filters in use" });
  const out = h("ul", { class: "chips", "aria-label": "Items left out" });
  const adding = h("div");
  const summary = h("summary", {});
  const box = h("details", { ontoggle: () => { if (box.open) load(); } }, summary,
    h("p", { class: "label" }, "Only items that have"), kept, adding, h("p", { class: "label" }, "Never these"), out);

  function show() {
    const filters = Object.entries(own());
    const excluded = state.excluded.filter((item) => item.domain === state.domain);
    summary.textContent = `Filters and exclusions${filters.length + excluded.length ? ` (${filters.length + excluded.length})` : ""}`;
    kept.replaceChildren(...filters.map(([name, wanted]) => {
      const said = Array.isArray(wanted) ? wanted.join(" or ") : [wanted.min === undefined ? "" : `at least ${wanted.min}`, wanted.max === undefined ? "" : `at most ${wanted.max}`].filter(Boolean).join(", ");
      return chip(`${name}: ${said}`, `Remove the filter ${name}`, () => { delete own()[name]; show(); changed(); });
    }));
    kept.hidden = !filters.length;
    out.replaceChildren(...(excluded.length ? excluded.map((item) => chip(named(item), `Let ${named(item)} come back`, () => { state.excluded.splice(state.excluded.indexOf(item), 1); show(); changed(); }))
      : [h("li", { class: "soft small none" }, "Leave out a recommendation by the button beside it.")]));
  }

  async function load() {
    if (told.domain === state.domain) return;
    running?.abort();
    running = new AbortController();
    const { domain } = state;
    adding.replaceChildren(waiting(1));
    try {
      const { answer } = await post("fields", { domain }, running.signal);
      told = { domain, fields: answer.fields.filter((one) => one.min !== undefined || one.values.length) };
      controls(answer.sampled_items);
    } catch (error) {
      if (error.name !== "AbortError") adding.replaceChildren(trouble(error, load));
    }
  }

  function controls(sampled) {
    if (!told.fields.length) { adding.replaceChildren(h("p", { class: "soft small" }, "The items of this domain have no fields to filter by.")); return; }
    const place = h("div", { class: "row" });
    const field = h("select", { id: fresh("field"), onchange: () => choose() },
      told.fields.map((one, at) => h("option", { value: at }, `${one.name} (${count(one.items)} of ${count(sampled)})`)));
    const add = (wanted) => { own()[told.fields[field.value].name] = wanted; show(); changed(); };
    const choose = () => {
      const one = told.fields[field.value];
      if (one.min === undefined) {
        const value = h("select", { id: fresh("value") }, one.values.map((each, at) => h("option", { value: at }, `${each.value} (${count(each.items)})`)));
        const put = () => {
          const [before, chosen] = [own()[one.name], one.values[value.value].value];
          add(Array.isArray(before) ? [...new Set([...before, chosen])] : [chosen]);
        };
        place.replaceChildren(h("div", { class: "grow" }, h("label", { for: value.id }, "is, or holds"), value), h("button", { type: "button", onclick: put }, "Add filter"));
        return;
      }
      const [least, most] = ["min", "max"].map((end) => h("input", { id: fresh(end), type: "number", step: "any", placeholder: limit(one[end]) }));
      const put = () => {
        const wanted = {};
        if (least.value !== "") wanted.min = Number(least.value);
        if (most.value !== "") wanted.max = Number(most.value);
        if (Object.keys(wanted).length) add(wanted); else least.focus();
      };
      place.replaceChildren(h("div", { class: "grow" }, h("label", { for: least.id }, "at least"), least), h("div", { class: "grow" }, h("label", { for: most.id }, "at most"), most),
        h("button", { type: "button", onclick: put }, "Add filter"));
    };
    adding.replaceChildren(h("p", {}, h("label", { for: field.id }, "Field"), field), place);
    choose();
  }

  box.refresh = () => { show(); if (box.open) load(); };
  box.stop = () => running?.abort();
  show();
  return box;
}
