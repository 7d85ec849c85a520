// The lines of a table of runs.
import { html } from "./drawn.js";
import { isCell, lasted, moment, short, shown, tick } from "./runs-state.js";

const WORDS = { FINISHED: "finished", RUNNING: "running", FAILED: "failed", INTERRUPTED: "interrupted", SCHEDULED: "scheduled" };

/** How wide a column is. @param {string} column */
export function widthOf(column) {
  if (column === "started" || column === "ended") return 132;
  if (column === "duration" || column === "status") return 104;
  const name = column.slice(column.indexOf(".") + 1);
  return Math.max(column.startsWith("metrics.") ? 112 : 104, Math.min(220, 34 + name.length * 7.4));
}

/**
 * Fill a line with a run.
 * @param {HTMLElement} line @param {any} row @param {{columns: string[], depth: number, open: boolean, tree: boolean, selected: boolean, base: any, baseRow: boolean, place: number}} how
 */
export function fillRun(line, row, how) {
  const box = html("input", { type: "checkbox", "aria-label": `Select ${row.name}`, tabindex: -1 });
  /** @type {HTMLInputElement} */ (box).checked = how.selected;
  const name = html("a", { href: `/runs/${encodeURIComponent(row.id)}`, class: "run-name", title: row.name, tabindex: -1 }, row.name);
  const first = html("div", { class: "cell pinned c-name", role: "rowheader" }, how.baseRow ? html("span", { class: "base-flag", title: "The others are held against this run" }, "base") : box);
  if (how.depth) first.append(html("span", { class: "indent" }, "")), (/** @type {HTMLElement} */ (first.lastChild).style.width = `${how.depth * 16}px`);
  if (row.children) first.append(html("button", { type: "button", class: "twist", "aria-expanded": String(how.open), "aria-label": `${row.children} runs below`, tabindex: -1 }, how.open ? "▾" : "▸"));
  else if (how.tree) first.append(html("span", { class: "twist" }));
  first.append(html("i", { class: `dot-status s-${row.status}`, title: WORDS[/** @type {keyof typeof WORDS} */ (row.status)] ?? row.status }), name);
  if (row.children) first.append(html("small", { class: "children" }, String(row.children)));
  if (row.deleted) first.append(html("span", { class: "badge" }, "deleted"));
  line.replaceChildren(first, ...cells(row, how));
}

/** @param {any} row @param {any} how */
function cells(row, how) {
  let place = -1;
  return how.columns.map((/** @type {string} */ column, /** @type {number} */ at) => {
    const cell = html("div", { class: `cell col-${at}`, role: "gridcell" });
    if (isCell(column)) {
      place += 1;
      const value = row.cells[place];
      const text = shown(value, column);
      const number = column.startsWith("metrics.") || typeof value === "number";
      if (number) cell.classList.add("num");
      cell.textContent = text;
      if (text.length > 14) cell.title = text;
      if (how.base && !how.baseRow) against(cell, value, how.base.cells[place], column);
    } else if (column === "started") cell.append(html("time", { datetime: row.started_at, title: `${row.started_at} UTC` }, moment(row.started_at)));
    else if (column === "ended") cell.textContent = row.ended_at ? moment(row.ended_at) : "–";
    else if (column === "status") cell.textContent = WORDS[/** @type {keyof typeof WORDS} */ (row.status)] ?? row.status;
    else if (column === "duration") {
      cell.classList.add("num");
      cell.textContent = row.ended_at ? lasted(Date.parse(row.ended_at) - Date.parse(row.started_at)) : row.status === "RUNNING" ? "running" : "–";
      if (!row.ended_at) cell.classList.add("dim");
    }
    return cell;
  });
}

/** Say how far a cell is from that of the base. @param {HTMLElement} cell @param {unknown} value @param {unknown} base @param {string} column */
function against(cell, value, base, column) {
  if (JSON.stringify(value ?? null) === JSON.stringify(base ?? null)) return cell.classList.add("same");
  cell.classList.add(column.startsWith("metrics.") ? "moved" : "differs");
  if (column.startsWith("metrics.") && typeof value === "number" && typeof base === "number") {
    const gap = value - base;
    cell.append(html("small", { class: "gap" }, `${gap > 0 ? "+" : ""}${tick(gap, 3)}`));
  }
  cell.title = `base: ${shown(base, column) || "nothing"}`;
}

/**
 * Fill a line with a group.
 * @param {HTMLElement} line @param {any} group @param {{columns: string[], open: boolean, field: string}} how
 */
export function fillGroup(line, group, how) {
  let value = group.value;
  if (value !== null && how.field.startsWith("params.")) {
    const plain = parsed(value);
    value = typeof plain === "string" ? plain : value;
  }
  const label = value === null ? html("em", {}, "without it") : html("b", {}, value);
  const twist = html("button", { type: "button", class: "twist", "aria-expanded": String(how.open), "aria-label": "Open the group", tabindex: -1 }, how.open ? "▾" : "▸");
  const first = html("div", { class: "cell pinned c-name", role: "rowheader" }, twist, label, html("small", { class: "children" }, `${group.runs} run${group.runs === 1 ? "" : "s"}`));
  let place = -1;
  const rest = how.columns.map((column, at) => {
    const cell = html("div", { class: `cell num col-${at}`, role: "gridcell" });
    if (isCell(column)) {
      place += 1;
      const found = group.cells[place];
      if (found && found[0] !== null) {
        cell.textContent = short(found[0]);
        cell.title = `mean of the group; ${short(found[1])} to ${short(found[2])}`;
        if (found[1] !== found[2]) cell.append(html("small", { class: "gap" }, `${tick(found[1], 3)} … ${tick(found[2], 3)}`));
      }
    }
    return cell;
  });
  line.replaceChildren(first, ...rest);
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
