// How a failure is shown: what happened, and what one can do.

import { h } from "./dom.js";

const HEADLINES = {
  0: "No answer", 401: "A key is needed", 403: "Not allowed here", 404: "Not found", 422: "The service refuses this",
  429: "The service is busy", 503: "The service is not ready", 504: "It took too long",
};

// `again` is called by the button, and by itself once a busy service says when to come back.
export function trouble(error, again) {
  if (error.status === undefined) throw error;
  const wait = error.status === 429 || error.status === 503 ? error.retryAfter || 2 : 0;
  const clock = h("span");
  const box = h("div", { class: "trouble", role: "alert" }, h("strong", {}, HEADLINES[error.status] || "Something went wrong"), h("span", { class: "said" }, /[.!?]$/.test(error.message) ? error.message : `${error.message}.`), " ", clock);
  if (!again) return box;
  const button = h("button", { type: "button", onclick: () => { left = -1; again(); } }, "Try again");
  box.append(h("div", {}, button));
  let left = wait;
  const tick = () => {
    if (left < 0 || (left !== wait && !box.isConnected)) return;
    if (left === 0) { left = -1; again(); return; }
    clock.textContent = `Next try in ${left} s.`;
    left -= 1;
    setTimeout(tick, 1000);
  };
  if (wait) tick();
  return box;
}
