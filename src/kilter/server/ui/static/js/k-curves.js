// Curves of runs on a canvas: thinned by the server to the width of the picture, and asked for again in finer steps when one zooms in.
import { short, tick } from "./runs-state.js";
import { html } from "./drawn.js";

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
const COLOURS = 8;
const AGAIN = 5000;

class Curves extends HTMLElement {
  static observedAttributes = ["src", "x", "smooth", "log", "group", "spread", "from", "to"];
  /** @type {any} */ #plot = null;
  /** @type {any} */ #found = null;
  /** @type {AbortController | null} */ #asking = null;
  #asked = 0;
  #seen = false;
  #width = 0;
  #redraw = () => this.#found && this.#draw();

  connectedCallback() {
    this.place = html("div", { class: "plot" });
    this.legend = html("div", { class: "legend" });
    this.told = html("p", { class: "hint told", role: "status" }, "…");
    this.replaceChildren(this.place, this.legend, this.told);
    this.watch = new IntersectionObserver((entries) => {
      if (!entries.some((one) => one.isIntersecting)) return;
      this.#seen = true;
      this.watch.disconnect();
      this.ask();
    }, { rootMargin: "300px" });
    this.watch.observe(this);
    this.sizes = new ResizeObserver(() => {
      const width = Math.round(this.clientWidth);
      if (!width || width === this.#width) return;
      const first = this.#width === 0;
      this.#width = width;
      if (!first) this.ask();
    });
    this.sizes.observe(this);
    document.addEventListener("kilter:theme", this.#redraw);
    this.timer = setInterval(() => this.hasAttribute("live") && this.#seen && !document.hidden && !this.#asking && this.#ask(), AGAIN);
  }

  disconnectedCallback() {
    this.watch?.disconnect();
    this.sizes?.disconnect();
    clearInterval(this.timer);
    this.#plot?.destroy();
    document.removeEventListener("kilter:theme", this.#redraw);
  }

  attributeChangedCallback() {
    this.ask();
  }

  ask() {
    clearTimeout(this.#asked);
    if (this.#seen) this.#asked = window.setTimeout(() => this.#ask(), 20);
  }

  async #ask() {
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    const [path, query] = (this.getAttribute("src") ?? "").split("?");
    const wanted = new URLSearchParams(query);
    for (const name of ["x", "smooth", "group", "spread", "from", "to"]) if (this.getAttribute(name)) wanted.set(name, this.getAttribute(name) ?? "");
    wanted.set("width", String(Math.max(100, Math.min(2000, Math.round(this.clientWidth - 60)))));
    const began = performance.now();
    try {
      const answer = await fetch(`${path}?${wanted}`, { signal: asking.signal });
      const body = await answer.json();
      if (answer.ok) {
        this.#found = body;
        this.#draw();
        this.dataset.took = String(Math.round(performance.now() - began));
      } else this.told.textContent = body.detail ?? "It did not work.";
    } catch (error) {
      if (/** @type {Error} */ (error).name !== "AbortError") this.told.textContent = "The server can’t be reached.";
    }
    if (this.#asking === asking) this.#asking = null;
  }

  /** @param {string} name */
  #colour(name) {
    return getComputedStyle(this).getPropertyValue(name).trim();
  }

  /** A run's colour is the same in every picture of the page. @param {any} line @param {number} place */
  #place(line, place) {
    const order = /** @type {any} */ (this.closest("[data-order]"))?.dataset.order?.split(",") ?? [];
    const at = line.runs.length === 1 && !line.low ? order.indexOf(line.runs[0]) : -1;
    return at >= 0 ? at : place;
  }

  #draw() {
    const { lines, x, spread } = this.#found;
    const log = this.hasAttribute("log");
    const fits = (/** @type {number} */ value) => (log && value !== null && value <= 0 ? null : value);
    const tables = [];
    /** @type {any[]} */ const series = [{}];
    /** @type {any[]} */ const bands = [];
    /** @type {any[]} */ this.shown = [];
    for (const [at, line] of lines.entries()) {
      const place = this.#place(line, at);
      const colour = this.#colour(`--c${(place % COLOURS) + 1}`);
      const dash = DASHES[Math.floor(place / COLOURS) % DASHES.length];
      const points = { show: line.x.length === 1 };
      if (line.faint) {
        tables.push([line.faint[0], line.faint[1].map(fits)]);
        series.push({ stroke: `${colour}40`, width: 1, points: { show: false }, spanGaps: true });
      }
      const columns = [line.x, line.y.map(fits)];
      series.push({ label: line.name, stroke: colour, width: line.low ? 2 : 1.6, dash, points, spanGaps: true });
      this.shown.push({ line, colour, place, at: series.length - 1 });
      if (line.low) {
        columns.push(line.high.map(fits), line.low.map(fits));
        series.push({ stroke: "transparent", width: 0, points: { show: false }, spanGaps: true }, { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true });
        bands.push({ series: [series.length - 2, series.length - 1], fill: `${colour}2b` });
      }
      tables.push(columns);
    }
    const none = !lines.some((/** @type {any} */ line) => line.x.length);
    this.told.textContent = this.#words(lines, spread, none);
    this.told.hidden = !this.told.textContent;
    this.#plot?.destroy();
    this.#plot = null;
    this.place.replaceChildren();
    this.#key();
    if (none) return;
    const uPlot = /** @type {any} */ (window).uPlot;
    const data = tables.length > 1 ? uPlot.join(tables) : tables[0];
    const grid = { stroke: this.#colour("--line"), width: 1 };
    const axis = { stroke: this.#colour("--ink-3"), grid, ticks: { ...grid, size: 4 }, font: "11.5px system-ui, sans-serif" };
    const [from, to] = ["from", "to"].map((name) => (this.hasAttribute(name) ? Number(this.getAttribute(name)) : null));
    const options = {
      width: Math.max(120, this.clientWidth),
      height: Number(this.getAttribute("height") ?? 220),
      padding: [8, 10, 0, 0],
      legend: { show: false },
      scales: { x: { time: x === "time", range: from !== null && to !== null ? [from, to] : undefined }, y: { distr: log ? 3 : 1 } },
      series,
      bands,
      axes: [
        { ...axis, size: 28, gap: 4, values: x === "time" ? undefined : (/** @type {any} */ _, /** @type {number[]} */ all) => all.map((one) => (x === "relative" ? clock(one) : brief(one))) },
        { ...axis, size: 54, gap: 4, values: (/** @type {any} */ _, /** @type {number[]} */ all) => all.map((one) => (one === null ? "" : log ? power(one) : tick(one))) },
      ],
      tzDate: (/** @type {number} */ at) => uPlot.tzDate(new Date(at * 1000), "UTC"),
      cursor: { drag: { x: true, y: false, setScale: false }, points: { size: 6 }, bind: { dblclick: () => () => this.#zoom(null) } },
      hooks: { setCursor: [(/** @type {any} */ plot) => this.#follow(plot)], setSelect: [(/** @type {any} */ plot) => this.#selected(plot)] },
    };
    this.#plot = new uPlot(options, data, this.place);
  }

  /** @param {any[]} lines @param {string} spread @param {boolean} none */
  #words(lines, spread, none) {
    if (none) return "No finite point here.";
    const odd = lines.reduce((/** @type {number} */ sum, line) => sum + line.odd, 0);
    const drawn = lines.reduce((/** @type {number} */ sum, line) => sum + line.x.length, 0);
    const all = lines.reduce((/** @type {number} */ sum, line) => sum + line.points, 0);
    const said = [];
    if (spread) said.push(spread);
    if (all > drawn && !spread) said.push(`${drawn.toLocaleString("en")} of ${all.toLocaleString("en")} points, the least and greatest of each pixel; drag to zoom`);
    if (odd) said.push(`${odd.toLocaleString("en")} not finite`);
    return said.join(" · ");
  }

  #key() {
    this.legend.replaceChildren(
      ...this.shown.slice(0, 24).map((/** @type {any} */ one) => {
        const item = html("button", { type: "button", class: `key c${(one.place % COLOURS) + 1}`, title: one.line.name });
        item.append(html("i", { class: "chip-colour" }), html("span", { class: "key-name" }, one.line.low ? `${one.line.name} (${one.line.runs.length})` : one.line.name), html("b", {}, ""));
        item.addEventListener("click", () => {
          const hidden = item.classList.toggle("off");
          this.#plot?.setSeries(one.at, { show: !hidden });
          if (one.line.low) for (const more of [1, 2]) this.#plot?.setSeries(one.at + more, { show: !hidden });
        });
        one.item = item;
        return item;
      }),
      ...(this.shown.length > 24 ? [html("span", { class: "hint" }, `and ${this.shown.length - 24} more`)] : []),
    );
    this.#follow(null);
  }

  /** Say the values at the pointer, or the last ones. @param {any} plot */
  #follow(plot) {
    const at = plot?.cursor.idx ?? null;
    for (const one of this.shown) {
      if (!one.item) continue;
      let value = one.line.y[one.line.y.length - 1];
      if (at !== null) value = near(plot.data[one.at], at);
      one.item.lastChild.textContent = value === null || value === undefined ? "" : short(Number(value.toPrecision(5)));
    }
  }

  /** @param {any} plot */
  #selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    this.#zoom([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
  }

  /** @param {[number, number] | null} range */
  #zoom(range) {
    this.dispatchEvent(new CustomEvent("curves:zoom", { bubbles: true, detail: range }));
  }
}

/** The value nearest to a place in a line that has no value everywhere. @param {any[]} values @param {number} at */
function near(values, at) {
  for (let away = 0; away < 400; away++) {
    for (const place of [at - away, at + away]) {
      const value = values[place];
      if (value !== undefined && value !== null) return value;
    }
  }
  return null;
}

/** Seconds as people say them. @param {number} seconds */
function clock(seconds) {
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 7200) return `${Number((seconds / 60).toPrecision(3))} min`;
  return `${Number((seconds / 3600).toPrecision(3))} h`;
}

/** @param {number} value */
const brief = (value) => (Math.abs(value) >= 1e6 ? `${Number((value / 1e6).toPrecision(4))} M` : Math.abs(value) >= 10000 ? `${Number((value / 1e3).toPrecision(4))} k` : tick(value));

/** @param {number} value */
function power(value) {
  const size = Math.log10(value);
  return Number.isInteger(Math.round(size * 1e9) / 1e9) ? (Math.abs(size) < 4 ? String(Number(value.toPrecision(3))) : `1e${Math.round(size)}`) : "";
}

customElements.define("k-curves", Curves);
