// A table of thousands of runs: only the lines in sight exist, and only they are asked for.
import { html } from "./drawn.js";
import { bulk } from "./runs-bulk.js";
import { columnPanel } from "./runs-columns.js";
import { fillGroup, fillRun, widthOf } from "./runs-cells.js";
import { Source } from "./runs-source.js";
import { fieldOf, isCell, readState, titleOf, writeState } from "./runs-state.js";

const LINE = 34;
const SPARE = 8;
const QUICK = 3000;
const CALM = 9000;

class Runs extends HTMLElement {
  connectedCallback() {
    this.data = JSON.parse(this.getAttribute("data") ?? "{}");
    this.usual = this.data.usual;
    this.state = readState(this.usual);
    this.cursor = -1;
    this.last = -1;
    /** @type {Map<number, HTMLElement>} */ this.lines = new Map();
    /** @type {any} */ this.base = null;
    this.find("scroll").addEventListener("scroll", () => this.ask(), { passive: true });
    this.find("scroll").addEventListener("click", (event) => this.clicked(/** @type {MouseEvent} */ (event)));
    this.source = new Source(this.data.path, () => this.ask(), (problem) => this.failed(problem));
    this.tools();
    new ResizeObserver(() => this.ask()).observe(this.find("scroll"));
    addEventListener("resize", () => this.fit());
    this.fit();
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("visibilitychange", () => this.beat());
    this.head();
    this.begin(this.state.group && !this.data.problem ? null : this.data.rows);
    this.beat();
  }

  /** @param {string} part @returns {any} */
  find(part) {
    return this.querySelector(`[data-part="${part}"]`);
  }

  tools() {
    /** @type {HTMLFormElement} */ (this.find("filter-form")).addEventListener("submit", (event) => {
      event.preventDefault();
      this.sift(this.find("filter").value.trim());
    });
    this.find("filter").value = this.state.filter;
    this.find("filter").addEventListener("input", () => this.wrong(""));
    const group = this.find("group");
    group.value = this.state.group;
    if (group.value !== this.state.group) group.append(html("option", { value: this.state.group, selected: "" }, titleOf(this.state.group)));
    group.addEventListener("change", () => this.change({ group: group.value }));
    this.find("tree").checked = this.state.tree;
    this.find("tree").addEventListener("change", () => this.change({ tree: this.find("tree").checked }));
    this.find("view").value = this.state.view;
    this.find("view").addEventListener("change", () => this.change({ view: this.find("view").value }));
    columnPanel(this);
    bulk(this);
    if (this.data.problem) this.wrong(this.data.problem, this.data.place);
  }

  /** Take a filter if it can be read; what is wrong with it is said beside it. @param {string} filter */
  async sift(filter) {
    this.setAttribute("busy", "");
    const query = new URLSearchParams({ filter, limit: "1", columns: "" });
    const answer = await fetch(`${this.data.path}.json?${query}`).catch(() => null);
    const found = answer?.ok ? await answer.json() : { filter_problem: "The server can’t be reached.", filter_place: null };
    this.removeAttribute("busy");
    if (found.filter_problem) return this.wrong(found.filter_problem, found.filter_place);
    this.change({ filter });
  }

  /** Show something else. @param {Partial<import("./runs-state.js").State>} change */
  change(change) {
    Object.assign(this.state, change);
    this.wrong("");
    writeState(this.state, this.usual);
    this.cursor = -1;
    this.head();
    this.find("scroll").scrollTop = 0;
    this.begin(null);
  }

  /** @param {any} first */
  async begin(first) {
    this.setAttribute("busy", "");
    await Promise.all([this.source.start(this.state, first), this.hold()]);
    this.removeAttribute("busy");
    this.redraw();
  }

  /** Get the run that the others are held against. */
  async hold() {
    this.base = null;
    if (!this.state.base) return;
    const columns = this.state.columns.filter(isCell).join(",");
    const answer = await fetch(`/runs/${encodeURIComponent(this.state.base)}/row.json?${new URLSearchParams({ columns })}`);
    const found = answer.ok ? await answer.json() : { rows: [] };
    this.base = found.rows[0] ?? null;
  }

  /** @param {string} message @param {number | null} [place] */
  wrong(message, place = null) {
    const field = this.find("filter");
    this.find("filter-problem").textContent = message && place !== null ? `${message} (character ${place + 1})` : message;
    if (message) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
    if (message && place !== null && document.activeElement === field) field.setSelectionRange(place, field.value.length);
  }

  /** @param {any} problem */
  failed(problem) {
    const said = `${problem.detail ?? problem.title ?? "It did not work"}`;
    if (problem.where === "filter") this.wrong(said);
    this.find("status").textContent = said;
    this.removeAttribute("busy");
  }

  /** Be as high as the window leaves room for. */
  fit() {
    const top = this.find("scroll").getBoundingClientRect().top + scrollY;
    this.find("scroll").style.height = `${Math.max(400, innerHeight - top - 26)}px`;
  }

  // ------------------------------------------------------------ drawing

  head() {
    const { columns, pin } = this.state;
    const first = innerWidth < 720 ? 176 : 290;
    const wide = (/** @type {string} */ column) => widthOf(column) + ((this.state.base || this.state.group) && column.startsWith("metrics.") ? 62 : 0);
    const widths = [first, ...columns.map(wide)];
    const scroll = this.find("scroll");
    scroll.style.setProperty("--cols", widths.map((one) => `${Math.round(one)}px`).join(" "));
    scroll.style.setProperty("--wide", `${Math.round(widths.reduce((sum, one) => sum + one, 0))}px`);
    let left = first;
    this.sheet ??= new CSSStyleSheet();
    const rules = columns.slice(0, innerWidth < 720 ? 0 : pin).map((column, at) => {
      const rule = `k-runs .col-${at} { position: sticky; left: ${Math.round(left)}px; z-index: 2; background: var(--row, var(--surface)); box-shadow: 1px 0 var(--line); }`;
      left += wide(column);
      return rule;
    });
    this.sheet.replaceSync(rules.join("\n"));
    if (!document.adoptedStyleSheets.includes(this.sheet)) document.adoptedStyleSheets = [...document.adoptedStyleSheets, this.sheet];
    const all = html("input", { type: "checkbox", "aria-label": "Select all that fit", "data-all": "" });
    const cells = [html("div", { class: "cell pinned c-name", role: "columnheader" }, all, this.sorter("name", "Run")), ...columns.map((column, at) => this.headCell(column, at))];
    this.find("head").replaceChildren(...cells);
    for (const line of this.lines.values()) line.remove();
    this.lines.clear();
  }

  /** @param {string} column @param {number} at */
  headCell(column, at) {
    const cell = html("div", { class: `cell col-${at}${column.startsWith("metrics.") || column === "duration" ? " num" : ""}`, role: "columnheader", draggable: "true", title: `${column}\nDrag to move` }, column === "duration" ? html("span", { class: "sort" }, "Duration") : this.sorter(column, titleOf(column)));
    cell.addEventListener("dragstart", (event) => event.dataTransfer?.setData("text/plain", column));
    cell.addEventListener("dragover", (event) => event.preventDefault());
    cell.addEventListener("drop", (event) => {
      event.preventDefault();
      const moved = event.dataTransfer?.getData("text/plain") ?? "";
      if (!this.state.columns.includes(moved) || moved === column) return;
      const rest = this.state.columns.filter((one) => one !== moved);
      rest.splice(rest.indexOf(column) + (this.state.columns.indexOf(moved) < at ? 1 : 0), 0, moved);
      this.change({ columns: rest });
    });
    return cell;
  }

  /** @param {string} column @param {string} title */
  sorter(column, title) {
    const field = fieldOf(column);
    const now = this.state.order === `-${field}` ? "descending" : this.state.order === field ? "ascending" : "none";
    const button = html("button", { type: "button", class: "sort", "aria-label": `Sort by ${title}${now === "none" ? "" : `, now ${now}`}` }, title, html("span", { class: "arrow" }, { descending: "↓", ascending: "↑", none: "" }[now]));
    button.addEventListener("click", () => this.change({ order: now === "descending" ? field : now === "ascending" ? "-started" : `-${field}` }));
    return button;
  }

  ask() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.draw();
    });
  }

  redraw() {
    for (const line of this.lines.values()) line.dataset.stale = "1";
    this.ask();
  }

  get span() {
    const scroll = this.find("scroll");
    const top = Math.max(0, scroll.scrollTop - this.find("head").offsetHeight);
    const first = Math.max(0, Math.floor(top / LINE) - SPARE);
    return { first, end: Math.min(this.source.top.height, Math.ceil((scroll.scrollTop + scroll.clientHeight) / LINE) + SPARE) };
  }

  draw() {
    const height = this.source.top.height;
    const body = this.find("body");
    body.style.height = `${height * LINE}px`;
    const { first, end } = this.span;
    this.source.need(first, end);
    for (const [place, line] of this.lines) {
      if (place < first || place >= end) {
        line.remove();
        this.lines.delete(place);
      }
    }
    for (let place = first; place < end; place++) this.line(place, body);
    this.baseline();
    this.say(height);
  }

  /** @param {number} place @param {HTMLElement} body */
  line(place, body) {
    const { row, depth, open } = this.source.look(place);
    let line = this.lines.get(place);
    if (!line) {
      line = html("div", { class: "line", role: "row", id: `line-${place}`, "aria-rowindex": place + 2 });
      line.style.transform = `translateY(${place * LINE}px)`;
      body.append(line);
      this.lines.set(place, line);
    }
    const selected = row && "id" in row ? this.state.select.has(row.id) : false;
    line.className = `line${selected ? " selected" : ""}${place === this.cursor ? " cursor" : ""}${row && "group" in row ? " group" : ""}${row && "deleted" in row && row.deleted ? " deleted" : ""}`;
    const base = this.base;
    const key = JSON.stringify([row, depth, open, selected, base?.id]);
    if (/** @type {any} */ (line).key === key && !line.dataset.stale) return;
    /** @type {any} */ (line).key = key;
    delete line.dataset.stale;
    if (!row) line.replaceChildren(html("div", { class: "cell pinned c-name dim" }, "…"));
    else if ("group" in row) fillGroup(line, row, { columns: this.state.columns, open, field: this.state.group });
    else fillRun(line, row, { columns: this.state.columns, depth, open, tree: this.state.tree, selected, base, baseRow: false, place });
  }

  baseline() {
    const line = this.find("base");
    line.hidden = !this.base;
    if (this.base) fillRun(line, this.base, { columns: this.state.columns, depth: 0, open: false, tree: false, selected: false, base: this.base, baseRow: true, place: -1 });
  }

  /** Headings stand over numbers as numbers do. */
  align() {
    const rows = [...this.lines.keys()].map((place) => /** @type {any} */ (this.source.look(place).row)).filter((row) => row && !("group" in row));
    let place = -1;
    for (const [at, column] of this.state.columns.entries()) {
      if (!isCell(column)) continue;
      place += 1;
      const own = place;
      if (!column.startsWith("metrics.")) this.find("head").children[at + 1]?.classList.toggle("num", rows.some((row) => typeof row.cells[own] === "number"));
    }
  }

  /** @param {number} height */
  say(height) {
    this.align();
    const { group, tree } = this.state;
    const total = this.source.top.total;
    const word = group ? "group" : tree ? "run at the top" : "run";
    this.find("count").textContent = `${total.toLocaleString("en")} ${total === 1 ? word : word.replace(/^(group|run)/, "$1s")}`;
    const none = height === 0 && !this.hasAttribute("busy");
    this.find("none").hidden = !none;
    if (none) this.find("none").firstElementChild.textContent = this.find("filter").hasAttribute("aria-invalid") ? "This filter can’t be read." : this.state.filter ? "No run fits this filter." : this.state.view === "deleted" ? "Nothing has been deleted here." : "No run here yet.";
    this.dispatchEvent(new CustomEvent("runs:drawn"));
  }

  // ------------------------------------------------------------ hands

  /** @param {MouseEvent} event */
  clicked(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.closest("[data-all]")) return this.dispatchEvent(new CustomEvent("runs:all"));
    const line = target.closest(".line[id]");
    if (!line || target.closest("a")) return;
    const place = Number(line.id.slice(5));
    if (target.closest(".twist") || line.classList.contains("group")) return this.source.toggle(place);
    this.cursor = place;
    this.mark(place, event.shiftKey);
  }

  /** Select or unselect; with shift everything since the one before. @param {number} place @param {boolean} [range] */
  mark(place, range = false) {
    const from = range && this.last >= 0 ? Math.min(this.last, place) : place;
    const { row } = this.source.look(place);
    if (!row || !("id" in row)) return this.ask();
    const on = range || !this.state.select.has(row.id);
    for (let at = from; at <= (range ? Math.max(this.last, place) : place); at++) {
      const one = this.source.look(at).row;
      if (!one || !("id" in one)) continue;
      if (on) this.state.select.add(one.id);
      else this.state.select.delete(one.id);
    }
    this.last = place;
    this.selected();
  }

  selected() {
    writeState(this.state, this.usual);
    this.dispatchEvent(new CustomEvent("runs:selected"));
    this.ask();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (target.closest("input:not([type=checkbox]), select, textarea")) {
      if (event.key === "Escape") target.blur();
      return;
    }
    const row = this.cursor >= 0 ? this.source.look(this.cursor).row : undefined;
    const id = row && "id" in row ? row.id : "";
    /** @type {Record<string, () => unknown>} */ const keys = {
      j: () => this.move(1),
      k: () => this.move(-1),
      ArrowDown: () => this.move(1),
      ArrowUp: () => this.move(-1),
      x: () => this.cursor >= 0 && this.mark(this.cursor, false),
      X: () => this.cursor >= 0 && this.mark(this.cursor, true),
      e: () => this.cursor >= 0 && this.source.toggle(this.cursor),
      Enter: () => (id ? location.assign(`/runs/${encodeURIComponent(id)}`) : this.cursor >= 0 && this.source.toggle(this.cursor)),
      o: () => id && location.assign(`/runs/${encodeURIComponent(id)}`),
      b: () => id && this.change({ base: this.state.base === id ? "" : id }),
      c: () => this.find("compare").click(),
      "/": () => this.find("filter").focus(),
      Escape: () => {
        this.state.select.clear();
        this.selected();
      },
    };
    const act = keys[event.key];
    if (!act || (event.key === "Enter" && target.closest("button, a, summary"))) return;
    event.preventDefault();
    act();
  }

  /** @param {number} by */
  move(by) {
    const most = this.source.top.height - 1;
    if (most < 0) return;
    this.cursor = Math.max(0, Math.min(most, this.cursor + by));
    const scroll = this.find("scroll");
    const head = this.find("head").offsetHeight + (this.base ? LINE : 0);
    const top = this.cursor * LINE;
    if (top < scroll.scrollTop) scroll.scrollTop = top;
    else if (top + LINE + head > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top + LINE + head - scroll.clientHeight;
    scroll.setAttribute("aria-activedescendant", `line-${this.cursor}`);
    this.ask();
  }

  /** Look again after a while: soon where something runs, and not at all while nobody sees it. */
  beat() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    const running = [...this.lines.keys()].some((place) => /** @type {any} */ (this.source.look(place).row)?.status === "RUNNING");
    this.timer = setTimeout(() => {
      if (!this.find("filter").hasAttribute("aria-invalid")) this.source.refresh(this.span.first, this.span.end);
      this.beat();
    }, running ? QUICK : CALM);
  }
}

customElements.define("k-runs", Runs);
