// Asks the service. The key stays in memory: a reload forgets it.

export class Trouble extends Error {
  constructor(status, code, message, retryAfter) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

let key = "";
// Keeps a key, unless a request could not carry it.
export function setKey(given) {
  const fits = /^[\x21-\x7e]+$/.test(given.trim());
  if (fits) key = given.trim();
  return fits;
}
export const hasKey = () => key !== "";

export const hub = new EventTarget();
const tell = (name, detail) => hub.dispatchEvent(new CustomEvent(name, { detail }));

let bundle = "";
function look(answer) {
  const version = answer.bundle_version;
  if (!version) return;
  if (bundle && version !== bundle) tell("swapped", version);
  bundle = version;
}

// Returns { answer, milliseconds, policy }; throws a Trouble, or an AbortError if `signal` ends it.
export async function ask(method, path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key) headers["x-api-key"] = key;
  const begun = performance.now();
  let response;
  try {
    response = await fetch(`../${path}`, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell("away");
    throw new Trouble(0, "unreachable", "The service does not answer. It may have stopped, or the network is down.");
  }
  const text = await response.text();
  const milliseconds = performance.now() - begun;
  if (response.ok) {
    const plain = !(response.headers.get("content-type") || "").includes("json");
    const answer = plain ? text : JSON.parse(text);
    if (!plain) look(answer);
    tell("here");
    return { answer, milliseconds, policy: response.headers.get("content-security-policy") };
  }
  let said = { code: "unknown", message: `The service answered ${response.status}.` };
  try { said = JSON.parse(text).error; } catch { /* a proxy's own page */ }
  const trouble = new Trouble(response.status, said.code, said.message, Number(response.headers.get("retry-after")) || undefined);
  if (trouble.status === 401) tell("locked");
  if (method === "POST" && (trouble.status === 404 || trouble.status === 422)) tell("doubt"); // another bundle may serve, which does not know this any more
  throw trouble;
}

export const get = (path, signal) => ask("GET", path, undefined, signal);
export const post = (path, body, signal) => ask("POST", path, body, signal);

// The address that a person would call from a terminal.
export const address = (path) => new URL(`../${path}`, location.href).href;
