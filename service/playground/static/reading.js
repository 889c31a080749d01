// Reads pasted or uploaded items: JSON lines, a JSON list, CSV with a head line, or lines of "title | categories".

const TEXTS = ["item_id", "title", "brand", "description"];

const slug = (title, row) => `${title.toLowerCase().normalize("NFKD").replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "item"}-${row + 1}`;

export class Unreadable extends Error {}

// Rows of fields (RFC 4180): a field in double quotes may hold commas, line breaks and doubled quotes.
export function csvRows(text) {
  const rows = [];
  let row = [], field = "", quoted = false;
  for (let at = 0; at <= text.length; at += 1) {
    const letter = text[at];
    if (quoted) {
      if (letter === undefined) throw new Unreadable("A double quote of the CSV is never closed.");
      if (letter !== '"') field += letter;
      else if (text[at + 1] === '"') { field += '"'; at += 1; }
      else quoted = false;
    } else if (letter === '"' && !field) quoted = true;
    else if (letter === "," || letter === "\n" || letter === undefined) {
      row.push(field.trim());
      field = "";
      if (letter !== ",") { if (row.some(Boolean)) rows.push(row); row = []; }
    } else field += letter;
  }
  return rows;
}

function fromCsv(text) {
  const [head, ...rows] = csvRows(text);
  const names = head.map((name) => name.toLowerCase());
  return rows.map((row, at) => {
    if (row.length > names.length) throw new Unreadable(`Row ${at + 2} of the CSV has ${row.length} fields, its head line ${names.length}.`);
    const item = {};
    names.forEach((name, column) => {
      const value = row[column] || "";
      if (!name || !value) return;
      if (name === "categories") item[name] = value.split(/[;|]/).map((part) => part.trim()).filter(Boolean);
      else item[name] = !TEXTS.includes(name) && /^-?\d+(\.\d+)?$/.test(value) ? Number(value) : value;
    });
    return item;
  });
}

function fromJson(text) {
  const parsed = (line, where) => {
    let item;
    try { item = JSON.parse(line); } catch { throw new Unreadable(`${where} is no JSON.`); }
    return item;
  };
  const items = text.startsWith("[") ? parsed(text, "The list") : text.split("\n").filter((line) => line.trim()).map((line, row) => parsed(line, `Line ${row + 1}`));
  items.forEach((item, row) => { if (item === null || typeof item !== "object" || Array.isArray(item)) throw new Unreadable(`Item ${row + 1} is no JSON object.`); });
  return items;
}

const fromLines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => {
  const [title, about = ""] = line.split("|").map((part) => part.trim());
  const categories = about.split(",").map((part) => part.trim()).filter(Boolean);
  return { title, ...(categories.length ? { categories } : {}) };
});

// The items of a text; those without an item_id get one of their titles. Throws an Unreadable.
export function itemsOf(given) {
  const text = given.replace(/^\uFEFF/, "").replaceAll("\r\n", "\n").trim();
  const head = text.split("\n", 1)[0].toLowerCase().split(",").map((name) => name.trim().replace(/^"|"$/g, ""));
  const items = /^[[{]/.test(text) ? fromJson(text) : head.length > 1 && head.includes("title") ? fromCsv(text) : fromLines(text);
  return items.map((item, row) => ({ ...item, item_id: String(item.item_id ?? slug(String(item.title ?? ""), row)) }));
}
