// "Try it": put a history together, and see what comes next.

import { get, post } from "./api.js";
import { choices } from "./choices.js";
import { copies } from "./copies.js";
import { bar, codes, empty, fresh, h, named, percent, waiting } from "./dom.js";
import { finder } from "./finder.js";
import { requestBody, state } from "./state.js";
import { trouble } from "./trouble.js";

export function tryIt(root) {
  let running = null, users = null;
  const found = h("div", { "aria-busy": "false", tabindex: "-1" });
  const list = h("div");
  const messages = h("p", { class: "soft small", role: "status" });
  const domain = h("select", { id: fresh("domain"), onchange: () => { state.domain = domain.value; forget(); choose.refresh(); recommend(); } },
    state.info.domains.map(({ name, items }) => h("option", { value: name, selected: name === state.domain }, `${name} (${items.toLocaleString("en")} items)`)));
  domain.value = state.domain;
  const results = h("input", { id: fresh("results"), type: "number", min: 1, max: state.info.limits.max_num_results, value: state.results,
    onchange: () => { state.results = Math.max(1, Math.min(state.info.limits.max_num_results, Math.round(Number(results.value)) || 10)); results.value = state.results; recommend(); } });
  const exclude = h("input", { type: "checkbox", checked: state.excludeHistory, onchange: () => { state.excludeHistory = exclude.checked; recommend(); } });

  const choose = choices(() => recommend());

  const forget = () => { state.target = null; };
  const added = () => { showHistory(); list.firstChild.scrollTop = list.firstChild.scrollHeight; recommend(); };

  function showHistory(focus) {
    const scrolled = list.firstChild?.scrollTop || 0;
    clear.disabled = !state.history.length;
    if (!state.history.length) {
      list.replaceChildren(empty("No history yet", "Search for something to begin with, or take a random user. Without a history, you see what the domain's users take first."));
      return;
    }
    const entry = (item, place) => {
      const move = (by, name) => h("button", { type: "button", class: "plain", disabled: place + by < 0 || place + by >= state.history.length, title: `Move ${name}`, "aria-label": `Move ${named(item)} ${name}`,
        onclick: () => {
          state.history.splice(place + by, 0, ...state.history.splice(place, 1));
          forget();
          showHistory();
          const moved = list.querySelectorAll("li")[place + by];
          (moved.querySelector(`[title="Move ${name}"]:enabled`) || moved.querySelector("button:enabled")).focus();
          recommend();
        } }, by < 0 ? "↑" : "↓");
      const away = h("button", { type: "button", class: "plain", title: "Remove", "aria-label": `Remove ${named(item)}`,
        onclick: () => { state.history.splice(place, 1); forget(); showHistory(Math.min(place, state.history.length - 1)); recommend(); } }, "✕");
      return h("li", {}, h("span", { class: "what" }, named(item), " ", h("span", { class: "tag" }, item.domain)), h("span", {}, move(-1, "up"), move(1, "down"), away));
    };
    list.replaceChildren(h("ol", { class: "history", "aria-label": "History, oldest first" }, state.history.map(entry)));
    list.firstChild.scrollTop = scrolled;
    if (focus >= 0) list.querySelectorAll('[aria-label^="Remove"]')[focus]?.focus();
  }

  async function recommend() {
    running?.abort();
    running = new AbortController();
    const body = requestBody();
    found.setAttribute("aria-busy", "true");
    if (!found.hasChildNodes() || found.querySelector(".trouble")) found.replaceChildren(waiting(6));
    try {
      const { answer, milliseconds } = await post("recommend", body, running.signal);
      Object.assign(state, { answer, asked: body, picked: 0 });
      show(answer, body, milliseconds);
    } catch (error) {
      if (error.name !== "AbortError") { found.replaceChildren(trouble(error, recommend)); found.setAttribute("aria-busy", "false"); }
    }
  }

  function show(answer, body, milliseconds) {
    found.setAttribute("aria-busy", "false");
    const top = answer.items.length ? answer.items[0].score : 0;
    const entry = (item) => {
      const hit = state.target && item.item_id === state.target.item_id;
      const shown = bar(Math.exp(item.score - top), "meter");
      return h("li", { class: hit ? "target" : "" },
        h("span", { class: "rank" }, item.rank),
        h("span", {}, h("span", { class: "title" }, named(item)), hit ? h("span", { class: "badge" }, "what the user took") : null, h("br"),
          h("span", { class: "sid" }, percent(Math.exp(item.score)), ", ", codes(item.sid))),
        h("span", { class: "acts" },
          h("button", { type: "button", class: "plain", "aria-label": `Why ${named(item)}`, onclick: () => { state.picked = item.rank - 1; location.hash = "#why"; } }, "Why"),
          h("button", { type: "button", class: "plain", title: "Leave out", "aria-label": `Leave out ${named(item)}`, onclick: () => leaveOut({ domain: answer.domain, item_id: item.item_id, title: item.title }) }, "✕")),
        shown);
    };
    const notes = [];
    if (!body.history.length) notes.push("Without a history, these are what the domain's users take first.");
    else if (answer.fallback) notes.push("Nothing of the history could be used: these are what the domain's users take first.");
    const missing = answer.missing_ids.map((id) => {
      const known = state.history.filter((item) => item.item_id === id);
      return known.length === 1 ? named(known[0]) : id;
    });
    if (missing.length) notes.push(`Not in the catalog, so not read: ${missing.join(", ")}.`);
    if (answer.returned_reason) notes.push(answer.returned_reason);
    found.replaceChildren(
      h("div", { class: "spread" }, h("h2", {}, `Next in ${answer.domain}`), h("p", { class: "soft small" }, `${Math.round(milliseconds)} ms, ${answer.exact ? "certainly the best" : "the best that the search found"}`)),
      h("div", {}, reveal(answer), notes.map((note) => h("p", { class: "soft small" }, note))),
      answer.items.length ? h("ol", { class: "results" }, answer.items.map(entry)) : empty("Nothing came back", "Take items out of the history, or choose another domain."),
      h("p", { class: "soft small" }, `Below each title stand its probability of being next and its codes; items that begin with the same codes are alike. Bundle ${answer.bundle_version.slice(0, 12)}, catalog version ${answer.catalog_version}.`),
      copies("recommend", body));
    messages.textContent = `${answer.items.length} recommendations`;
  }

  function leaveOut(item) {
    state.excluded.push(item);
    choose.open = true;
    choose.refresh();
    recommend();
    found.focus({ preventScroll: true });
  }

  function reveal(answer) {
    if (!state.target) return null;
    const rank = answer.items.findIndex((item) => item.item_id === state.target.item_id) + 1;
    const where = rank ? `It is at place ${rank}.` : `It is not among these ${answer.items.length}.`;
    return h("p", { class: "reveal" }, "This user took ", h("strong", {}, named(state.target)), " next, which training did not see. ", where);
  }

  async function randomUser() {
    random.disabled = true;
    try {
      users ??= (await get("evaluation_users")).answer.users;
      if (!users.length) { userNote.textContent = "This bundle came without evaluation users. Train it again to have some."; return; }
      const others = users.filter((user) => user.target !== state.target);
      const user = (others.length ? others : users)[Math.floor(Math.random() * (others.length || users.length))];
      Object.assign(state, { domain: user.domain, history: user.history.map((item) => ({ ...item })), target: user.target });
      domain.value = user.domain;
      choose.refresh();
      added();
    } catch (error) {
      userNote.replaceChildren(trouble(error, randomUser));
    } finally { random.disabled = false; }
  }

  const random = h("button", { class: "main", type: "button", onclick: randomUser }, "Random user");
  const userNote = h("div", { class: "soft small", role: "status" });
  const clear = h("button", { type: "button", onclick: () => { state.history = []; forget(); showHistory(); random.focus(); recommend(); } }, "Clear");
  root.append(
    h("h1", {}, "What comes next?"),
    h("p", { class: "lead" }, "Put together what somebody saw, in one domain or in several, and choose the domain to recommend from."),
    h("div", { class: "two" },
      h("section", { class: "card", "aria-label": "History" },
        h("div", { class: "row" }, h("div", { class: "grow" }, h("label", { for: domain.id }, "Recommend from"), domain),
          h("div", {}, h("label", { for: results.id }, "How many"), results)),
        h("label", { class: "check" }, exclude, "Leave out what is in the history"),
        finder({ label: "Add to the history", hint: "Words of a title, or an id", onpick: (item) => { state.history.push({ domain: item.domain, item_id: item.item_id, title: item.title }); forget(); added(); } }),
        list,
        h("div", { class: "row" }, random, clear), userNote, choose),
      h("section", { class: "card", "aria-label": "Recommendations" }, messages, found)));
  messages.classList.add("hear");
  showHistory();
  recommend();
  return () => { running?.abort(); choose.stop(); };
}
