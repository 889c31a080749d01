// "Watch": what the service does right now, from its own metrics.

import { get } from "./api.js";
import { count, empty, h, s, waiting } from "./dom.js";
import { loadInfo, state } from "./state.js";
import { trouble } from "./trouble.js";

const EVERY = 2000, KEPT = 60;

// What was seen, kept while other views are open: the time away is one more interval.
const kept = { rate: [], p50: [], p95: [], p99: [], queue: [], batch: [], hits: [], errors: [] };
let last = null;

// Prometheus' text as [name, labels, value].
export function samples(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const parts = /^([a-z_:]+)(?:\{(.*)\})? (\S+)/i.exec(line);
    if (parts) found.push([parts[1], parts[2] || "", Number(parts[3])]);
  }
  return found;
}

const sum = (all, name, label = "") => all.filter(([own, labels]) => own === name && labels.includes(label)).reduce((total, [, , value]) => total + value, 0);

// The time below which a share of the requests of an interval stayed, in seconds; null if there were none.
export function quantile(before, after, share) {
  const bounds = new Map();
  for (const [all, sign] of [[before, -1], [after, 1]]) {
    for (const [name, labels, value] of all) {
      if (name !== "sidera_request_seconds_bucket" || !labels.includes('route="/recommend"')) continue;
      const bound = Number(/le="([^"]+)"/.exec(labels)[1].replace("+Inf", "Infinity"));
      bounds.set(bound, (bounds.get(bound) || 0) + sign * value);
    }
  }
  const sorted = [...bounds].sort(([one], [other]) => one - other);
  const total = sorted.length ? sorted[sorted.length - 1][1] : 0;
  if (total <= 0) return null;
  let below = 0, low = 0;
  for (const [bound, counted] of sorted) {
    if (counted >= share * total) return bound === Infinity ? low : low + (bound - low) * ((share * total - below) / (counted - below || 1));
    [below, low] = [counted, bound];
  }
  return low;
}

function line(values, label) {
  const known = values.map((value) => value ?? 0), most = Math.max(...known, 1e-9), width = 240, height = 48;
  const points = known.map((value, at) => `${((at + KEPT - known.length) / (KEPT - 1) * width).toFixed(1)} ${(height - 2 - value / most * (height - 6)).toFixed(1)}`);
  const first = points.length ? points[0].split(" ")[0] : 0;
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", height, preserveAspectRatio: "none", role: "img", "aria-label": label },
    s("path", { class: "under", d: `M${first} ${height}L${points.join("L")}L${width} ${height}Z` }), s("path", { class: "line", "vector-effect": "non-scaling-stroke", d: `M${points.join("L")}` }));
}

export function watch(root) {
  const running = new AbortController();
  let timer = 0;
  const tiles = h("div", { class: "tiles" }, waiting(3));
  const table = h("div");
  root.append(h("h1", {}, "What the service does"),
    h("p", { class: "lead" }, "Read from its metrics every two seconds while this view is open. The first point of a line is all since the service started; what happens while you are elsewhere is one point."), tiles, h("div", { class: "gap" }), table);

  const tile = (title, value, hint, values) => h("section", { class: "card" }, h("h2", {}, title), h("p", { class: "big" }, value), h("p", { class: "soft small" }, hint), line(values, `${title}, over time`));

  async function look() {
    try {
      const [{ answer: text }] = await Promise.all([get("metrics", running.signal), loadInfo()]);
      const now = { at: performance.now(), all: samples(text) };
      show(now, last || { at: NaN, all: [] });
      last = now;
      timer = setTimeout(look, EVERY);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 404) { tiles.replaceChildren(empty("No figures here", "The service shows its metrics on its admin port alone (SIDERA_PROBES_ON).")); return; }
      tiles.replaceChildren(trouble(error, error.status === 503 || error.status === 429 ? look : () => { tiles.replaceChildren(waiting(3)); look(); }));
    }
  }

  function show(now, before) {
    const seconds = (now.at - before.at) / 1000; // NaN for the first look: how long the service ran is not known
    const more = (name, label) => Math.max(0, sum(now.all, name, label) - sum(before.all, name, label));
    const rate = (name, label) => (seconds > 0 ? more(name, label) / seconds : null);
    const push = (name, value) => { kept[name].push(value); kept[name].splice(0, kept[name].length - KEPT); };
    for (const [name, share] of [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]]) {
      const found = quantile(before.all, now.all, share);
      push(name, found === null ? null : found * 1000);
    }
    push("rate", rate("sidera_requests_total", 'route="/recommend"'));
    push("queue", sum(now.all, "sidera_queue_length"));
    const batches = more("sidera_batch_rows_count", 'engine="recommend"');
    push("batch", batches ? more("sidera_batch_rows_sum", 'engine="recommend"') / batches : null);
    const [hits, misses] = [more("sidera_history_cache_hits_total"), more("sidera_history_cache_misses_total")];
    push("hits", hits + misses ? 100 * hits / (hits + misses) : null);
    push("errors", rate("sidera_errors_total"));
    const latest = (name) => kept[name].findLast((value) => value !== null);
    const shown = (name, unit, digits = 1) => (latest(name) === undefined ? "–" : `${latest(name) < 10 ? latest(name).toFixed(digits) : Math.round(latest(name))}${unit}`);
    const all = ["hits", "misses"].map((name) => sum(now.all, `sidera_history_cache_${name}_total`));
    const cached = now.all.some(([name]) => name === "sidera_history_cache_hits_total");
    tiles.replaceChildren(
      tile("Recommendations", shown("rate", " / s"), "requests answered", kept.rate),
      tile("Time to answer", shown("p50", " ms"), `half of them were faster; 95 %: ${shown("p95", " ms")}, 99 %: ${shown("p99", " ms")}`, kept.p50),
      tile("Waiting", count(kept.queue.at(-1)), "rows in queues", kept.queue),
      tile("Batch size", shown("batch", ""), "rows computed together, on average", kept.batch),
      tile("Cache hits", cached ? shown("hits", " %", 0) : "off", cached ? `histories of which something was kept; ${count(all[0])} of ${count(all[0] + all[1])} since the start` : "nothing is kept of histories", kept.hits),
      tile("Errors", shown("errors", " / s"), `${count(sum(now.all, "sidera_errors_total"))} since the start`, kept.errors));
    const rows = [["Bundle", state.info.bundle_version.slice(0, 12)], ["Catalog version", count(state.info.catalog_version)], ["Backbone", state.info.backbone],
      ["Tokenizer", `${state.info.tokenizer.method}, codebooks of ${state.info.tokenizer.codebook_sizes.join(", ")}`],
      ...state.info.domains.map(({ name, items }) => [`Items of ${name}`, count(items)])];
    table.replaceChildren(h("section", { class: "card" }, h("h2", {}, "What serves"), h("table", {}, h("tbody", {}, rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "num" }, value)))))));
  }

  look();
  return () => { running.abort(); clearTimeout(timer); };
}
