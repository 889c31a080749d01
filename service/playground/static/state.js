// What the views share. It lives as long as the page.

import { get, hub } from "./api.js";

export const state = {
  info: null,
  domain: "",
  history: [], // { domain, item_id, title }, oldest first
  results: 10,
  excludeHistory: true,
  excluded: [], // { domain, item_id, title } that must not come back
  filters: {}, // by domain, by field: a list of values, or { min, max }
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
  const body = { domain: state.domain, history, num_results: state.results, exclude_history: state.excludeHistory };
  const exclude = state.excluded.filter((item) => item.domain === state.domain).map((item) => item.item_id);
  const filters = state.filters[state.domain] || {};
  if (exclude.length) body.exclude = exclude;
  if (Object.keys(filters).length) body.filters = filters;
  return body;
}
