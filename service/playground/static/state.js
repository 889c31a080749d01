// What the views share. It lives as long as the page.

import { get, hub } from "./api.js";

export const state = {
  info: null,
  domain: "",
  history: [], // { domain, item_id, title }, oldest first
  results: 10,
  excludeHistory: true,
  target: null, // what an evaluation user took next
  answer: null, // the last recommendations, and the request that they answer
  asked: null,
  picked: 0, // the result that "Why" looks at
};

export async function loadInfo() {
  const { answer } = await get("v1/info");
  state.info = answer;
  const names = answer.domains.map((domain) => domain.name);
  if (!names.includes(state.domain)) state.domain = names[0] || "";
  hub.dispatchEvent(new CustomEvent("info"));
  return answer;
}

export function requestBody() {
  const history = state.history.map(({ domain, item_id }) => ({ domain, item_id }));
  return { domain: state.domain, history, num_results: state.results, exclude_history: state.excludeHistory };
}
