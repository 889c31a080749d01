// The call behind what is shown, to copy: for a terminal, and for Python.

import { address, hasKey } from "./api.js";
import { h } from "./dom.js";

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

export function curl(path, body) {
  const key = hasKey() ? ` \\\n  -H "x-api-key: $SIDERA_KEY"` : "";
  return `curl -s ${quoted(address(path))} \\\n  -H 'content-type: application/json'${key} \\\n  -d ${quoted(JSON.stringify(body))}`;
}

export function python(path, body) {
  const key = hasKey() ? `\n    headers={"x-api-key": os.environ["SIDERA_KEY"]},` : "";
  const parsed = JSON.stringify(JSON.stringify(body));
  return `import json${key ? "\nimport os" : ""}\n\nimport httpx\n\nanswer = httpx.post(\n    ${JSON.stringify(address(path))},${key}\n    json=json.loads(${parsed}),\n).raise_for_status().json()\nprint(json.dumps(answer, indent=2))`;
}

export function copies(path, body) {
  const one = (name, text) => {
    const said = h("span", { role: "status", class: "soft small" });
    const copy = async () => {
      try { await navigator.clipboard.writeText(text); said.textContent = "Copied."; }
      catch { said.textContent = "The browser does not let this page copy; mark the text instead."; }
    };
    return [h("div", { class: "spread" }, h("h3", {}, name), h("span", {}, said, " ", h("button", { type: "button", class: "plain", onclick: copy }, `Copy ${name}`))),
      h("pre", { tabindex: "0", "aria-label": `The call in ${name}` }, text)];
  };
  return h("details", {}, h("summary", {}, "The call behind this"), one("curl", curl(path, body)), one("Python", python(path, body)));
}
