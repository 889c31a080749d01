// Builds elements. Text goes in as text: nothing that the service says is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// A horizontal bar; share from 0 to 1.
export function bar(share, kind = "") {
  const inside = h("i");
  inside.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return h("span", { class: kind === "meter" ? "meter" : `bar ${kind}`, "aria-hidden": "true" }, inside);
}

// A bar that grows from the middle: to the right for, to the left against.
export function middleBar(share) {
  const inside = h("i", { class: share < 0 ? "against" : "" });
  const width = Math.min(1, Math.abs(share)) * 50;
  inside.style.width = `${width}%`;
  inside.style.left = `${share < 0 ? 50 - width : 50}%`;
  return h("div", { class: "bar middle", "aria-hidden": "true" }, inside);
}

export const waiting = (rows = 4) =>
  h("div", { class: "waiting" }, h("span", { class: "hear" }, "Loading"), Array.from({ length: rows }, () => h("i")));

export const empty = (headline, hint) => h("p", { class: "empty" }, h("strong", {}, headline), hint);

export const percent = (share) => // the space does not break
  share >= 0.0995 ? `${(share * 100).toFixed(0)}\u00a0%` : share >= 0.001 ? `${(share * 100).toFixed(1)}\u00a0%` : share > 0 ? "<\u00a00.1\u00a0%" : "0\u00a0%";

export const count = (number) => number.toLocaleString("en");

// A small button that takes something away again.
export const chip = (text, name, onclick) => h("li", {}, h("span", {}, text), h("button", { type: "button", class: "plain", "aria-label": name, onclick }, "✕"));

export const named = (item) => item.title || item.item_id;

export const codes = (sid) => sid.join(" · ");

let made = 0;
export const fresh = (name) => `${name}-${++made}`;
