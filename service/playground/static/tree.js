// The tree of codes that lead to the items of an answer, drawn from left to right.

import { named, percent, s } from "./dom.js";

const ROW = 24, LEFT = 20, NARROW = 600;
const WIDE_SIZES = { step: 130, label: 250, letters: 30 }, NARROW_SIZES = { step: 36, label: 150, letters: 16 };

const short = (text, letters) => (text.length > letters ? `${text.slice(0, letters - 1)}…` : text);

// How probable a code is after the codes before it, by both kinds of weights: products of the codes on the way.
function likely(explanation, level, step) {
  const before = explanation.codes.slice(0, level);
  const of = (name) => (step[name] === null ? 0 : before.reduce((chance, one) => chance * (one[name] ?? 0), step[name]));
  return (1 - explanation.gamma) * of("universal") + explanation.gamma * of("domain");
}

// Adds the likeliest codes beside the way that no item of the answer has.
function addPruned(root, chosen, explanation) {
  let node = root;
  chosen.sid.forEach((code, level) => {
    for (const other of explanation.codes[level].others) {
      if (!node.children.has(other.code)) node.children.set(other.code, { code: other.code, mass: likely(explanation, level, other), children: new Map(), items: [], pruned: true });
    }
    node = node.children.get(code);
  });
}

// `room` is the width that there is, in pixels.
export function tree(items, chosen, explanation, room) {
  const { step, label, letters } = room < NARROW ? NARROW_SIZES : WIDE_SIZES;
  const levels = chosen.sid.length;
  const root = { key: "", mass: 0, children: new Map(), items: [] };
  for (const item of items) {
    const mass = Math.exp(item.score);
    let node = root;
    node.mass += mass;
    item.sid.forEach((code, level) => {
      if (!node.children.has(code)) node.children.set(code, { code, level: level + 1, mass: 0, children: new Map(), items: [] });
      node = node.children.get(code);
      node.mass += mass;
    });
    node.items.push(item);
  }
  addPruned(root, chosen, explanation);
  const widest = Math.max(...[...root.children.values()].map((child) => child.mass), 1e-12);
  let row = 0;
  const place = (node) => {
    const below = [...node.children.values()].sort((one, other) => other.mass - one.mass);
    node.below = below;
    if (!below.length) { node.y = row * ROW + ROW; row += 1; return; }
    below.forEach(place);
    node.y = (below[0].y + below[below.length - 1].y) / 2;
  };
  place(root);
  const x = (level) => LEFT + level * step;
  const width = x(levels) + label, height = row * ROW + ROW;
  const image = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `The ${items.length} best items by their codes; the way to ${named(chosen)} is ${chosen.sid.join(", ")}` });
  const edges = [], nodes = [];
  const draw = (node, level, onWay) => {
    node.below.forEach((child) => {
      const way = onWay && chosen.sid[level] === child.code;
      const share = Math.min(1, child.mass / widest);
      const [left, right] = [x(level), x(level + 1)];
      const edge = s("path", { class: way ? "edge" : child.pruned ? "edge faint pruned" : "edge faint", "stroke-width": (1 + 9 * Math.sqrt(share)).toFixed(1),
        d: `M${left} ${node.y}C${left + step / 2} ${node.y} ${right - step / 2} ${child.y} ${right} ${child.y}` });
      edges[way ? "push" : "unshift"](edge);
      nodes.push(s("circle", { class: way ? "node" : "node faint", cx: right, cy: child.y, r: 3.5 }));
      const [item] = child.items;
      const text = item ? `${child.code}  ${short(named(item), letters)}` : child.pruned ? `${child.code}  ${percent(child.mass)}, pruned` : String(child.code);
      nodes.push(s("text", { x: right + 9, y: child.y + (item || child.pruned ? 4 : -6), class: way ? "" : "soft" }, s("title", {}, `${item ? named(item) : `code ${child.code}`}: ${percent(child.mass)}`), text));
      draw(child, level + 1, way);
    });
  };
  draw(root, 0, true);
  image.append(...edges, s("circle", { class: "node", cx: x(0), cy: root.y, r: 5 }), ...nodes);
  return image;
}
