// A map of the items: those whose codes stand for nearly the same lie together. Drawn on a canvas, and told as a list.

import { get } from "./api.js";
import { codes, count, empty, fresh, h, named, percent, waiting } from "./dom.js";
import { state } from "./state.js";
import { trouble } from "./trouble.js";

const LISTED = 100, RADIUS = 3;
const SHAPES = ["circle", "square", "triangle", "diamond"];
let drawn = null; // the last map, until the catalog changes

const hue = (place, of) => (of <= 8 ? Math.round(225 + place * 360 / of) % 360 : Math.round(place * 137.508) % 360);

function mark(pen, shape, x, y, r) {
  pen.beginPath();
  if (shape === "circle") pen.arc(x, y, r, 0, 7);
  else if (shape === "square") pen.rect(x - r, y - r, 2 * r, 2 * r);
  else if (shape === "triangle") { pen.moveTo(x, y - r * 1.3); pen.lineTo(x + r * 1.2, y + r); pen.lineTo(x - r * 1.2, y + r); pen.closePath(); }
  else { pen.moveTo(x, y - r * 1.4); pen.lineTo(x + r * 1.4, y); pen.lineTo(x, y + r * 1.4); pen.lineTo(x - r * 1.4, y); pen.closePath(); }
}

export function itemMap(onplace) {
  const running = new AbortController();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const place = h("div", {}, waiting(5));
  const box = h("section", { class: "card", "aria-label": "Map of items" }, h("h2", {}, "Map of items"), place);
  let canvas = null, groups = new Map(), chosen = null, by = "domain", size = 1;

  async function load() {
    if (drawn && drawn.catalog_version === state.info.catalog_version && drawn.bundle === state.info.bundle_version) { build(); return; }
    try {
      drawn = (await get("map", running.signal)).answer;
      drawn.bundle = state.info.bundle_version;
      build();
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(trouble(error, load));
    }
  }

  const colour = (at) => `hsl(${hue(at, groups.size)} ${dark.matches ? "75% 68%" : "62% 42%"})`;
  const shape = (at) => (by === "domain" ? SHAPES[at % SHAPES.length] : "circle");
  const pixels = (item) => [(item.x + 1) / 2 * (size - 24) + 12, (1 - item.y) / 2 * (size * 0.66 - 24) + 12];

  function group() {
    const found = new Map();
    for (const item of drawn.items) {
      const name = by === "domain" ? item.domain : item.sid[0];
      if (!found.has(name)) found.set(name, []);
      found.get(name).push(item);
    }
    groups = by === "domain" ? found : new Map([...found].sort(([one], [other]) => one - other));
  }

  function paint() {
    if (!canvas?.isConnected) return;
    const scale = devicePixelRatio || 1;
    size = canvas.clientWidth;
    [canvas.width, canvas.height] = [size * scale, size * 0.66 * scale];
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.globalAlpha = 0.75;
    [...groups.values()].forEach((items, at) => {
      pen.fillStyle = colour(at);
      for (const item of items) { mark(pen, shape(at), ...pixels(item), RADIUS); pen.fill(); }
    });
    if (chosen) {
      pen.globalAlpha = 1;
      pen.lineWidth = 2.5;
      pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
      mark(pen, "circle", ...pixels(chosen), 8);
      pen.stroke();
    }
  }

  function build() {
    if (!drawn.items.length) { place.replaceChildren(empty("No items yet", "Register some under New domain.")); return; }
    const said = h("p", { class: "told", role: "status" }, "Point at the map, or choose an item of the list, to see what it is.");
    const legend = h("p", { class: "legend" });
    const which = h("select", { id: fresh("group"), onchange: () => list() });
    const entries = h("ul", { class: "entries", "aria-label": "Items of the group" });
    const colours = h("select", { id: fresh("colours"), onchange: () => { by = colours.value; regroup(); } }, h("option", { value: "domain" }, "Domain"), h("option", { value: "code" }, "First code"));
    colours.value = by;
    canvas = h("canvas", { role: "img", "aria-label": `Map of ${count(drawn.items.length)} items; the list below has the same items by group` });

    const tell = (item) => {
      chosen = item;
      said.replaceChildren(h("strong", {}, named(item)), `, ${item.domain}, ${codes(item.sid)} `, h("button", { type: "button", class: "plain", onclick: () => onplace(item) }, "Show its place"));
      paint();
    };
    const list = () => {
      const own = [...groups.values()][which.value] || [];
      entries.replaceChildren(...own.slice(0, LISTED).map((item) => h("li", {}, h("button", { type: "button", class: "plain", onclick: () => tell(item) }, named(item)))),
        own.length > LISTED ? h("li", { class: "soft small" }, `and ${count(own.length - LISTED)} more on the map`) : "");
    };
    const regroup = () => {
      group();
      const names = [...groups.keys()];
      legend.replaceChildren(...(by === "domain" ? names.slice(0, 12).map((name, at) => {
        const key = h("canvas", { class: "key", width: 24, height: 24, "aria-hidden": "true" }), pen = key.getContext("2d");
        pen.fillStyle = colour(at);
        mark(pen, shape(at), 12, 12, 7);
        pen.fill();
        return h("span", {}, key, name);
      }) : [h("span", {}, `One colour for each of ${names.length} first codes.`)]));
      which.replaceChildren(...names.map((name, at) => h("option", { value: at }, `${by === "domain" ? "" : "Code "}${name} (${count(groups.get(name).length)})`)));
      list();
      paint();
    };
    canvas.addEventListener("pointermove", (event) => near(event, 14, tell));
    canvas.addEventListener("pointerdown", (event) => near(event, 30, tell));
    const shown = drawn.variance[0] + drawn.variance[1];
    place.replaceChildren(
      h("p", { class: "soft small" }, `${count(drawn.items.length)} of ${count(drawn.catalog_items)} items, placed by what their codes stand for: what lies together is alike. The two axes show ${percent(shown)} of all differences.`),
      h("div", { class: "row" }, h("div", { class: "grow" }, h("label", { for: colours.id }, "Colour by"), colours), h("div", { class: "grow" }, h("label", { for: which.id }, "List the items of"), which)),
      legend, h("div", { class: "map" }, canvas, entries), said);
    regroup();
  }

  function near(event, reach, tell) {
    const [x, y] = [event.offsetX, event.offsetY];
    let best = null, least = reach * reach;
    for (const item of drawn.items) {
      const [px, py] = pixels(item), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [item, distance];
    }
    if (best && best !== chosen) tell(best);
  }

  const again = () => { if (drawn && canvas) build(); };
  dark.addEventListener("change", again);
  addEventListener("resize", paint);
  load();
  return [box, () => { running.abort(); dark.removeEventListener("change", again); removeEventListener("resize", paint); }];
}
