// Rows of runs by the screenful: lists that know how long they are, ask for the pages that are looked at, and have others in them.
import { isCell } from "./runs-state.js";

const PAGE = 100;

/** @typedef {{id: string, name: string, status: string, started_at: string, ended_at: string | null, deleted?: boolean, parent?: string, children?: number, cells: unknown[]}} Row */
/** @typedef {{group: true, value: string | null, runs: number, cells: ([number|null, number|null, number|null] | null)[]}} Group */

/** A list of rows, with other lists opened below some of them. */
export class Branch {
  /** @param {Record<string, string>} query @param {number} depth */
  constructor(query, depth) {
    this.query = query;
    this.depth = depth;
    this.total = 0;
    /** @type {Map<number, (Row | Group)[]>} */ this.pages = new Map();
    /** @type {Set<number>} */ this.asking = new Set();
    /** @type {Map<number, Branch>} */ this.open = new Map();
  }

  get height() {
    let found = this.total;
    for (const branch of this.open.values()) found += branch.height;
    return found;
  }

  /** @param {number} place @returns {{branch: Branch, index: number}} */
  at(place) {
    let passed = 0;
    for (const [index, branch] of [...this.open].sort((one, other) => one[0] - other[0])) {
      const own = index + passed;
      if (place <= own) break;
      if (place <= own + branch.height) return branch.at(place - own - 1);
      passed += branch.height;
    }
    return { branch: this, index: place - passed };
  }

  /** @param {number} index @returns {Row | Group | undefined} */
  row(index) {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  }
}

/** Where the rows come from. */
export class Source {
  /** @param {string} path @param {() => void} changed @param {(problem: any) => void} failed */
  constructor(path, changed, failed) {
    this.path = path;
    this.changed = changed;
    this.failed = failed;
    this.top = new Branch({}, 0);
    this.run = 0;
    /** @type {import("./runs-state.js").State} */ this.state = /** @type {any} */ (null);
  }

  /** Begin again. @param {import("./runs-state.js").State} state @param {{total: number, rows: Row[]} | null} first */
  async start(state, first = null) {
    this.state = state;
    this.run += 1;
    const top = new Branch(state.tree && !state.group ? { tree: "1" } : {}, 0);
    if (first && !state.group) {
      this.top = top;
      top.total = first.total;
      top.pages.set(0, first.rows);
      return this.changed();
    }
    if (state.group) await this.#groups(top);
    else await this.#load(top, 0);
  }

  /** @param {Branch} top */
  async #groups(top) {
    const run = this.run;
    const found = await this.#ask(`${this.path}/groups.json?${this.#query({ group: this.state.group })}`);
    if (!found || run !== this.run) return;
    const rows = found.map((/** @type {any} */ one) => ({ ...one, group: true }));
    top.total = rows.length;
    for (let page = 0; page * PAGE < rows.length; page++) top.pages.set(page, rows.slice(page * PAGE, (page + 1) * PAGE));
    if (this.top.open.size && this.top.total === top.total) top.open = this.top.open;
    this.top = top;
    this.changed();
  }

  /** @param {Record<string, string>} more */
  #query(more) {
    const { filter, order, columns, view } = this.state;
    return new URLSearchParams({ filter, order, view, columns: columns.filter(isCell).join(","), ...more });
  }

  /** @param {string} address */
  async #ask(address) {
    try {
      const answer = await fetch(address, { signal: AbortSignal.timeout(20000) });
      const body = await answer.json();
      if (answer.ok) return body;
      this.failed(body);
    } catch {
      this.failed({ detail: "The server can’t be reached.", where: "" });
    }
    return null;
  }

  /** @param {Branch} branch @param {number} page */
  async #load(branch, page) {
    if (branch.asking.has(page)) return;
    branch.asking.add(page);
    const run = this.run;
    const found = await this.#ask(`${this.path}/rows.json?${this.#query({ ...branch.query, offset: String(page * PAGE), limit: String(PAGE) })}`);
    branch.asking.delete(page);
    if (!found || run !== this.run) return;
    const before = branch.pages.get(page);
    const same = branch.total === found.total && before && JSON.stringify(before) === JSON.stringify(found.rows);
    branch.total = found.total;
    branch.pages.set(page, found.rows);
    if (branch.depth === 0 && this.top !== branch && !this.state.group) this.top = branch;
    if (!same) this.changed();
  }

  /** See to it that rows are there. @param {number} from @param {number} to */
  need(from, to) {
    for (const { branch, page } of this.#seen(from, to)) if (!branch.pages.has(page)) this.#load(branch, page);
  }

  /** Ask again for what is looked at. @param {number} from @param {number} to */
  refresh(from, to) {
    if (this.state.group) this.#groups(new Branch({}, 0));
    for (const { branch, page } of this.#seen(from, to)) if (!(this.state.group && branch.depth === 0)) this.#load(branch, page);
    if (!this.top.height && !this.state.group) this.#load(this.top, 0);
  }

  /** @param {number} from @param {number} to */
  #seen(from, to) {
    const found = new Map();
    for (let place = from; place < Math.min(to, this.top.height); place++) {
      const { branch, index } = this.top.at(place);
      const page = Math.floor(index / PAGE);
      const pages = found.get(branch) ?? new Set();
      found.set(branch, pages.add(page));
    }
    return [...found].flatMap(([branch, pages]) => [...pages].map((page) => ({ branch, page })));
  }

  /** Open or close what is below a row. @param {number} place */
  async toggle(place) {
    const { branch, index } = this.top.at(place);
    const row = branch.row(index);
    if (!row) return;
    if (branch.open.delete(index)) return this.changed();
    /** @type {Record<string, string>} */ let query;
    if ("group" in row) query = { group: this.state.group, ...(row.value === null ? { ungrouped: "1" } : { value: row.value }) };
    else if (row.children) query = { parent: row.id };
    else return;
    const below = new Branch(query, branch.depth + 1);
    await this.#load(below, 0);
    branch.open.set(index, below);
    this.changed();
  }

  /** @param {number} place @returns {{row: Row | Group | undefined, depth: number, open: boolean}} */
  look(place) {
    const { branch, index } = this.top.at(place);
    return { row: branch.row(index), depth: branch.depth, open: branch.open.has(index) };
  }
}
