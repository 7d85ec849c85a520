// What a table of runs shows, as the address says it: every change is written there, so that the address can be shared.

const KEYS = ["filter", "order", "columns", "pin", "group", "tree", "view", "base", "select"];

/** @typedef {{filter: string, order: string, columns: string[], pin: number, group: string, tree: boolean, view: string, base: string, select: Set<string>}} State */

/** @param {string[]} columns Those that are shown when the address says nothing. @returns {State} */
export function readState(columns) {
  const query = new URLSearchParams(location.search);
  const list = (/** @type {string} */ name) => (query.get(name) ?? "").split(",").filter(Boolean);
  return {
    filter: query.get("filter") ?? "",
    order: query.get("order") ?? "-started",
    columns: query.has("columns") ? list("columns") : [...columns],
    pin: Math.max(0, Math.min(6, Number(query.get("pin") ?? 0) || 0)),
    group: query.get("group") ?? "",
    tree: query.get("tree") === "1",
    view: query.get("view") ?? "alive",
    base: query.get("base") ?? "",
    select: new Set(list("select")),
  };
}

/** @param {State} state @param {string[]} usual */
export function writeState(state, usual) {
  const query = new URLSearchParams(location.search);
  for (const key of KEYS) query.delete(key);
  if (state.filter) query.set("filter", state.filter);
  if (state.order !== "-started") query.set("order", state.order);
  if (state.columns.join() !== usual.join()) query.set("columns", state.columns.join(","));
  if (state.pin) query.set("pin", String(state.pin));
  if (state.group) query.set("group", state.group);
  if (state.tree) query.set("tree", "1");
  if (state.view !== "alive") query.set("view", state.view);
  if (state.base) query.set("base", state.base);
  if (state.select.size && state.select.size <= 60) query.set("select", [...state.select].join(","));
  const text = query.toString();
  history.replaceState(history.state, "", text ? `?${text}` : location.pathname);
}

const PLAIN = /^[\w/.-]+$/;

/** The way an order or a filter names a column. @param {string} column */
export function fieldOf(column) {
  const [kind, ...rest] = column.split(".");
  const name = rest.join(".");
  return !name || PLAIN.test(name) ? column : `${kind}.\`${name}\``;
}

/** What a column is called. @param {string} column */
export function titleOf(column) {
  const dot = column.indexOf(".");
  return { started: "Started", ended: "Ended", duration: "Duration", status: "Status", "tags.mlflow.user": "By" }[column] ?? (dot < 0 ? column : column.slice(dot + 1));
}

/** Whether a column comes from the server as a cell. @param {string} column */
export const isCell = (column) => /^(params|metrics|tags)\../.test(column);

/** A value as a person reads it. @param {unknown} value @param {string} column */
export function shown(value, column) {
  if (value === null || value === undefined) return "";
  if (column.startsWith("metrics.")) {
    if (typeof value === "string") return value.replace("-", "−").replace("Infinity", "∞");
    return short(Number(value));
  }
  if (typeof value === "number") return short(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Five significant digits and a real minus sign. @param {number} value */
export function short(value) {
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  let text;
  if (Number.isInteger(value) && size < 15) text = value.toLocaleString("en");
  else if (size < -4 || size > 9) text = value.toExponential(3).replace("e+", "e");
  else text = value.toFixed(Math.max(0, Math.min(8, 4 - size)));
  return text.replace(/-/g, "−");
}

/** A number on an axis: no more digits than it needs. @param {number} value @param {number} [digits] */
export function tick(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? Number(value.toPrecision(digits)).toExponential().replace("e+", "e") : size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
  return text.replace(/-/g, "−");
}

/** @param {number} ms */
export function lasted(ms) {
  const s = ms / 1000;
  if (!(s >= 0)) return "–";
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const LONG = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });

/** A moment, UTC. @param {string} text */
export function moment(text) {
  const at = new Date(text);
  return `${(at.getUTCFullYear() === new Date().getUTCFullYear() ? DAY : LONG).format(at)}, ${TIME.format(at)}`;
}
