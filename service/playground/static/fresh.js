// "New domain": items that the model never saw get semantic IDs, and can be recommended at once.

import { ask, post } from "./api.js";
import { copies } from "./copies.js";
import { bar, codes, count, empty, fresh, h, named, percent, waiting } from "./dom.js";
import { itemsOf, Unreadable } from "./reading.js";
import { loadInfo, requestBody, state } from "./state.js";
import { trouble } from "./trouble.js";

const EXAMPLE = ["The Long Voyage of the Beagle | Biography, Sea", "A Murder at the Vicarage | Crime", "Notes from a Small Island | Travel, Humour", "The War of the Worlds | Science Fiction", "Love in the Time of Cholera | Romance"].join("\n");
const kept = { domain: "books", text: EXAMPLE, registered: [] };

const NEAR_AT_ONCE = 16, NEAR_SHOWN = 64;

export function newDomain(root) {
  const running = new AbortController();
  const name = h("input", { id: fresh("name"), value: kept.domain, maxlength: 64, autocomplete: "off", oninput: () => { kept.domain = name.value; } });
  const text = h("textarea", { id: fresh("items"), value: kept.text, oninput: () => { kept.text = text.value; } });
  const file = h("input", { id: fresh("file"), type: "file", accept: ".jsonl,.ndjson,.json,.csv,.txt", onchange: async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    if (chosen.size > state.info.limits.max_body_bytes) { placed.replaceChildren(empty("The file is too large", `One request takes ${count(state.info.limits.max_body_bytes)} bytes. Send it in parts.`)); return; }
    kept.text = text.value = await chosen.text();
    text.focus();
  } });
  const placed = h("div", { role: "status" });
  const next = h("div", { role: "status" });
  const known = () => state.info.domains.some((domain) => domain.name === kept.domain.trim());

  const tokenize = async (register) => {
    const domain = kept.domain.trim(), most = state.info.limits.max_tokenize_items;
    let items;
    try { items = itemsOf(kept.text); }
    catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      placed.replaceChildren(h("div", { class: "trouble", role: "alert" }, h("strong", {}, "These items cannot be read"), error.message));
      return;
    }
    if (!domain || !items.length) { placed.replaceChildren(empty("Nothing to place", "Give the domain a name, and at least one title.")); return; }
    if (items.length > most) { placed.replaceChildren(empty("Too many at once", `These are ${count(items.length)} items, and one request takes ${count(most)}. Send them in parts.`)); return; }
    const body = { domain, items, register };
    placed.replaceChildren(waiting(Math.min(items.length, 6)));
    try {
      const { answer, milliseconds } = await post("tokenize", body, running.signal);
      showPlaced(answer, items, milliseconds, body);
      if (register) {
        kept.registered = answer.items.filter((item) => item.registered).map((item) => ({ domain, item_id: item.item_id }));
        await loadInfo();
        await recommend(domain);
      }
    } catch (error) {
      if (error.name !== "AbortError") placed.replaceChildren(trouble(error, () => tokenize(register)));
    }
  };

  function showPlaced(answer, items, milliseconds, body) {
    const nearest = answer.items.map(() => h("td", {}, h("span", { class: "soft" }, "…")));
    const rows = answer.items.map((item, row) => h("tr", {}, h("td", {}, named(items[row])),
      h("td", item.error ? {} : { class: "sid" }, item.error ? item.error.message : codes(item.sid), " ", item.error ? h("span", { class: "badge bad" }, "refused") : item.moved ? h("span", { class: "badge warm" }, "nearest free") : null),
      nearest[row]));
    placed.replaceChildren(h("div", { class: "spread" }, h("h2", {}, body.register ? "Registered" : "Would get"), h("p", { class: "soft small" }, `${Math.round(milliseconds)} ms`)),
      h("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "Semantic IDs" }, h("table", {}, h("thead", {}, h("tr", {}, ["Item", "Semantic ID", "Nearest known items"].map((title) => h("th", { scope: "col" }, title)))), h("tbody", {}, rows))),
      copies("tokenize", body));
    showNear(answer.items, nearest, body.domain);
  }

  // What lies nearest to each semantic ID in the other domains.
  async function showNear(items, cells, domain) {
    const asked = items.map((item, row) => [item.sid, cells[row]]).filter(([sid]) => sid).slice(0, NEAR_SHOWN);
    cells.forEach((cell) => cell.replaceChildren());
    for (let begin = 0; begin < asked.length; begin += NEAR_AT_ONCE) {
      const part = asked.slice(begin, begin + NEAR_AT_ONCE);
      try {
        const { answer } = await post("near", { sids: part.map(([sid]) => sid), num_results: 3, except_domain: domain }, running.signal);
        answer.results.forEach((near, row) => part[row][1].replaceChildren(near.length ? h("ul", { class: "near" }, near.map((one) =>
          h("li", {}, named(one), " ", h("span", { class: "tag" }, `${one.domain}, ${percent(one.similarity)} alike, ${one.shared_codes} of ${one.sid.length} codes`)))) : "none in another domain"));
      } catch (error) {
        if (error.name !== "AbortError") part[0][1].replaceChildren(trouble(error, () => showNear(items, cells, domain)));
        return;
      }
    }
  }

  async function recommend(domain) {
    next.replaceChildren(waiting(4));
    const body = { ...requestBody(), domain, num_results: 5 };
    try {
      const { answer } = await post("recommend", body, running.signal);
      const top = answer.items.length ? answer.items[0].score : 0;
      next.replaceChildren(h("h2", {}, `Next in ${domain}`),
        h("p", { class: "soft small" }, state.history.length ? `After the ${state.history.length} items of the history under Try it. Nothing was trained.` : "Without a history. Put one together under Try it, and come back."),
        h("ol", { class: "results" }, answer.items.map((item) => h("li", {}, h("span", { class: "rank" }, item.rank), h("span", {}, h("span", { class: "title" }, named(item)), h("br"), h("span", { class: "sid" }, codes(item.sid))), h("span", { class: "soft small" }, percent(Math.exp(item.score))), bar(Math.exp(item.score - top), "meter")))),
        h("button", { type: "button", onclick: remove }, "Delete what was registered"));
    } catch (error) {
      if (error.name !== "AbortError") next.replaceChildren(trouble(error, () => recommend(domain)));
    }
  }

  async function remove() {
    next.replaceChildren(waiting(2));
    try {
      while (kept.registered.length) {
        const { domain, item_id } = kept.registered[0];
        await ask("DELETE", `items/${encodeURIComponent(domain)}/${item_id.split("/").map(encodeURIComponent).join("/")}`);
        kept.registered.shift();
      }
      await loadInfo();
      next.replaceChildren(empty("Deleted", "The items are out of the catalog; their semantic IDs are not given away again."));
      placed.replaceChildren();
    } catch (error) { next.replaceChildren(trouble(error, remove)); }
  }

  root.append(h("h1", {}, "A domain the model never saw"),
    h("p", { class: "lead" }, "Paste or upload some items. They get semantic IDs from their text alone, and can be recommended as soon as they are registered. Nothing is trained."),
    h("div", { class: "two" },
      h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); tokenize(true); } },
        h("p", {}, h("label", { for: name.id }, "Name of the domain"), name),
        h("label", { for: text.id }, "Items"), text,
        h("p", { class: "soft small" }, "One a line as title | categories, as JSON lines ({\"item_id\": …, \"title\": …}), or as CSV with a head line (item_id,title,categories,…)."),
        h("p", {}, h("label", { for: file.id }, "Or a file of them"), file), h("p", { class: "soft small" }, "Registered items stay until they are deleted, also after a restart."),
        h("div", { class: "row" }, h("button", { class: "main", type: "submit" }, "Register"), h("button", { type: "button", onclick: () => tokenize(false) }, "Only show their IDs"))),
      h("div", {}, h("section", { class: "card", "aria-label": "Semantic IDs" }, placed), h("section", { class: "card", "aria-label": "Recommendations" }, next))));
  placed.append(empty("No IDs yet", "Register the items, or look at what they would get."));
  if (kept.registered.length && known()) recommend(kept.registered[0].domain);
  else next.append(empty("Nothing registered yet", "Recommendations from the new domain come here."));
  return () => running.abort();
}
