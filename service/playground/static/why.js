// "Why": what the model saw in the history, and how the search came to an item.

import { post } from "./api.js";
import { copies } from "./copies.js";
import { bar, codes, empty, h, middleBar, named, percent, waiting } from "./dom.js";
import { requestBody, state } from "./state.js";
import { tree } from "./tree.js";
import { trouble } from "./trouble.js";

const EXPLAINED = 6;
const SEARCHED = 24;
const MEMORY = [["followed", "items that followed those of the history"], ["alike", "items like those of the history"], ["popular", "what the domain's users take"]];

export function why(root) {
  const running = new AbortController();
  const place = h("div", {}, waiting(6));
  root.append(h("h1", {}, "Why these?"),
    h("p", { class: "lead" }, "The model writes an item code by code. Here are the probabilities that it gave, what else was mixed in, and what each item of the history did."), place);

  async function load() {
    const limits = state.info.limits;
    const body = { ...requestBody(), explain: true };
    body.num_results = Math.max(1, Math.min(EXPLAINED, limits.max_explained_items));
    if (!limits.max_explained_items) {
      place.replaceChildren(empty("Explanations are switched off", "Set SIDERA_MAX_EXPLAINED_ITEMS above 0 to see them."));
      return;
    }
    if (state.picked >= body.num_results) body.num_results = Math.min(state.picked + 1, limits.max_explained_items);
    place.replaceChildren(waiting(6));
    try {
      const wide = { ...requestBody(), num_results: Math.min(SEARCHED, limits.max_num_results) };
      const explained = (await post("recommend", body, running.signal)).answer;
      const around = (await post("recommend", wide, running.signal)).answer;
      show(explained, around, body);
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(trouble(error, load));
    }
  }

  function show(explained, around, body) {
    if (!explained.items.length) {
      place.replaceChildren(empty("Nothing to explain", "No item came back. Choose another history under Try it."));
      return;
    }
    const details = h("div", { class: "two" });
    const picks = h("ul", { class: "pick", "aria-label": "Recommended items" });
    const pick = (at) => {
      state.picked = at;
      [...picks.querySelectorAll("button")].forEach((button, row) => button.setAttribute("aria-pressed", String(row === at)));
      details.replaceChildren(...cards(explained.items[at]));
      drawn.replaceChildren(...searched(explained, around, at, place.clientWidth));
    };
    picks.append(...explained.items.map((item, at) => h("li", {}, h("button", { type: "button", onclick: () => pick(at) }, `${item.rank}. ${named(item)}`))));
    const drawn = h("section", { class: "card", "aria-label": "The search" });
    place.replaceChildren(picks, details, h("div", { class: "gap" }), drawn, copies("recommend", body));
    pick(Math.min(state.picked, explained.items.length - 1));
  }

  load();
  return () => running.abort();
}

const signed = (effect) => {
  const shown = effect.toFixed(2);
  return Number(shown) === 0 ? "0.00" : effect > 0 ? `+${shown}` : `−${shown.slice(1)}`;
};

// What the universal weights, the domain's own and the memory add to an item's probability; they sum to 1.
export function shares({ codes: steps, gamma, parts }) {
  const product = (name) => steps.reduce((chance, step) => chance * (step[name] ?? 0), 1);
  const [universal, domain] = [(1 - gamma) * product("universal"), gamma * product("domain")];
  const memory = MEMORY.reduce((sum, [name]) => sum + parts[name], 0);
  const [model, total] = [universal + domain || 1, parts.language_model + memory || 1];
  const of = (part) => part / total;
  return { universal: of(parts.language_model * universal / model), domain: of(parts.language_model * domain / model), memory: of(memory), followed: of(parts.followed), alike: of(parts.alike), popular: of(parts.popular) };
}

function cards(item) {
  const { codes: steps, gamma, history } = item.explanation;
  const own = steps.some((step) => step.domain !== null);
  const share = shares(item.explanation);
  const experts = [["universal", "weights of all domains", ""], ["domain", "weights of this domain", "second"], ["memory", "memory of what users took", "third"]];
  const row = (name, words, kind) => [h("dt", {}, words), h("dd", {}, bar(share[name], kind)), h("dd", { class: "num" }, percent(share[name]))];
  const chances = h("section", { class: "card" },
    h("h2", {}, named(item)),
    h("p", { class: "soft small" }, `Semantic ID ${codes(item.sid)}, probability ${percent(Math.exp(item.score))}`),
    h("h3", {}, "Its codes, each given those before it"),
    h("p", { class: "legend" }, h("span", {}, h("i"), "weights of all domains"), own ? h("span", {}, h("i", { class: "second" }), "weights of this domain") : null),
    h("dl", { class: "bars" }, steps.map((step, level) => [
      h("dt", {}, `${level + 1}: `, h("strong", {}, step.code)), h("dd", {}, bar(step.universal)), h("dd", { class: "num" }, percent(step.universal)),
      step.domain === null ? null : [h("dt", { class: "hear" }, "in this domain"), h("dd"), h("dd", {}, bar(step.domain, "second")), h("dd", { class: "num" }, percent(step.domain))],
    ])),
    h("p", { class: "soft small" }, own ? `The domain's own weights have a share of ${percent(gamma)} here.` : "The domain has no weights of its own."),
    h("h3", {}, "What made it probable"),
    h("dl", { class: "bars" }, experts.map((one) => row(...one))),
    h("p", { class: "soft small" }, "Of the memory:"),
    h("dl", { class: "bars" }, MEMORY.map(([name, words]) => row(name, words, "third"))));
  const most = Math.max(...history.map((one) => Math.abs(one.effect ?? 5)), 0.01);
  const title = (one) => named(state.history[one.place] || one);
  const effects = h("section", { class: "card" },
    h("h2", {}, "What the history did for it"),
    h("p", { class: "legend" }, h("span", {}, h("i"), "speaks for it"), h("span", {}, h("i", { class: "second" }), "speaks against it")),
    history.length ? h("dl", { class: "bars" }, history.slice(0, 14).map((one) => [
      h("dt", {}, title(one), " ", h("span", { class: "tag" }, one.domain)), h("dd", {}, middleBar((one.effect ?? 5) / most)),
      h("dd", { class: "num" }, one.effect === null ? "all" : signed(one.effect))]))
      : empty("No history was read", "So this is what the domain's users take first."),
    h("p", { class: "soft small" }, "In log-probability: what would be lost without that one item."));
  return [chances, effects];
}

function searched(explained, around, at, room) {
  const items = around.items.slice();
  for (const item of explained.items) if (!items.some((one) => one.item_id === item.item_id)) items.push(item);
  return [h("h2", {}, "The search, code by code"),
    h("p", { class: "legend" }, h("span", {}, h("i"), `the way to ${named(explained.items[at])}`), h("span", {}, h("i", { class: "faint" }), `the ways to the other ${items.length - 1} best items`), h("span", {}, h("i", { class: "pruned" }), "pruned")),
    h("p", { class: "soft small" }, "A wider line carries more probability. Pruned are the likeliest other codes at each step of the way: none of the best items has them."),
    h("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "Tree of the search" }, tree(items, explained.items[at], explained.items[at].explanation, room))];
}
