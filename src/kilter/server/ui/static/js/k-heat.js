// Drift per feature and day on a canvas: lightness tells how much, so that it can be read without seeing colours.
import { Drawn, dates, dayName, html, num, when } from "./drawn.js";

const ROW = 25;
const STEPS = 7;

class Heat extends Drawn {
  static css = `
  canvas { display: block; cursor: crosshair; border-radius: 4px; }
  canvas:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
  .legend { display: flex; align-items: center; gap: 8px; margin-top: 6px; justify-content: flex-end; color: var(--ink-3); flex-wrap: wrap; }
  .ramp { display: flex; height: 9px; border-radius: 3px; overflow: hidden; border: 1px solid var(--line); }
  .ramp i { width: 20px; }
  ${Array.from({ length: STEPS }, (_, step) => `.ramp i:nth-child(${step + 1}) { background: var(--heat-${step}); }`).join("\n")}
  .over { display: inline-block; width: 5px; height: 5px; border-radius: 50%; background: var(--ink-2); margin-right: 5px; vertical-align: middle; }
  `;

  /** @type {{row: number, column: number} | null} */ #cursor = null;
  /** @type {{row: number, column: number} | null} */ #chosen = null;

  constructor() {
    super();
    this.canvas = /** @type {HTMLCanvasElement} */ (html("canvas", { tabindex: 0, role: "application" }));
    this.legend = html("div", { class: "legend" });
    this.stage.append(this.canvas, this.legend);
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.#leave());
    this.canvas.addEventListener("blur", () => this.#leave());
    this.canvas.addEventListener("click", (event) => {
      this.#point(event);
      this.#open();
    });
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  get left() {
    return this.width < 520 ? 86 : 118;
  }

  get cell() {
    return (this.width - this.left) / this.data.days.length;
  }

  /** The scale: 0 is nothing, 1 is four times what a monitor calls drift; roots make small moves visible. @param {number} value */
  level(value) {
    return Math.min(1, Math.sqrt(Math.max(0, value) / (4 * this.data.threshold)));
  }

  draw() {
    const { features, days, values, threshold } = this.data;
    const height = features.length * ROW + 18;
    const dense = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.width * dense);
    this.canvas.height = Math.round(height * dense);
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${height}px`;
    this.canvas.setAttribute("aria-label", `Drift of ${features.length} features over ${days.length} days; arrow keys move, Enter opens a day`);
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    pen.scale(dense, dense);
    pen.clearRect(0, 0, this.width, height);
    const ramp = Array.from({ length: STEPS }, (_, step) => this.colour(`--heat-${step}`));
    const [ink, faint, strong, surface] = ["--ink-2", "--ink-3", "--ink", "--surface"].map((name) => this.colour(name));
    const family = getComputedStyle(this).fontFamily;
    const gap = this.cell > 5 ? 1 : 0;
    pen.textBaseline = "middle";
    features.forEach((/** @type {string} */ name, /** @type {number} */ row) => {
      const top = row * ROW;
      pen.font = `12px ${family}`;
      pen.fillStyle = ink;
      pen.textAlign = "right";
      pen.fillText(fit(pen, name, this.left - 14), this.left - 9, top + ROW / 2);
      values[row].forEach((/** @type {number | null} */ value, /** @type {number} */ column) => {
        if (value == null) return;
        const from = Math.round(this.left + column * this.cell);
        const to = Math.round(this.left + (column + 1) * this.cell);
        pen.fillStyle = ramp[Math.min(STEPS - 1, Math.floor(this.level(value) * STEPS))];
        pen.fillRect(from, top + 1, Math.max(1, to - from - gap), ROW - 2);
        if (value >= threshold && this.cell > 6) {
          pen.fillStyle = surface;
          pen.beginPath();
          pen.arc((from + to - gap) / 2, top + ROW / 2, 1.6, 0, 7);
          pen.fill();
        }
      });
    });
    pen.font = `11px ${family}`;
    pen.fillStyle = faint;
    const [first, last] = [when(days[0]), when(days[days.length - 1])];
    for (const { at, label } of dates(first, Math.max(last, first + 864e5), Math.max(2, Math.floor((this.width - this.left) / 64)))) {
      const place = this.left + ((at - first) / 864e5 + 0.5) * this.cell;
      if (place > this.width - 12) continue;
      pen.textAlign = place < this.left + 16 ? "left" : "center";
      pen.fillText(label, place, height - 7);
    }
    for (const [spot, colour] of /** @type {const} */ ([[this.#chosen, strong], [this.#cursor, strong]])) {
      if (!spot) continue;
      pen.strokeStyle = colour;
      pen.lineWidth = spot === this.#chosen ? 2 : 1.5;
      pen.strokeRect(Math.round(this.left + spot.column * this.cell) - 0.5, spot.row * ROW + 0.5, Math.max(4, this.cell), ROW - 1);
    }
    this.legend.replaceChildren(
      "none", html("span", { class: "ramp" }, ...Array.from({ length: STEPS }, () => html("i"))), `${num(4 * threshold, 2)} and more`,
      ...(this.cell > 6 ? [html("span", {}, html("i", { class: "over" }), `above ${num(threshold, 2)}`)] : []),
    );
  }

  /** @param {PointerEvent | MouseEvent} event */
  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - this.left) / this.cell);
    const row = Math.floor((event.clientY - box.top) / ROW);
    if (column < 0 || column >= this.data.days.length || row < 0 || row >= this.data.features.length) return this.#leave();
    this.#move(row, column);
  }

  /** @param {number} row @param {number} column */
  #move(row, column) {
    if (this.#cursor?.row === row && this.#cursor.column === column) return;
    this.#cursor = { row, column };
    const value = this.data.values[row][column];
    const said = value == null ? "nothing recorded" : `${num(value)}${value >= this.data.threshold ? ", drifted" : ""}`;
    this.show(this.left + (column + 0.5) * this.cell, row * ROW - 6, html("b", {}, this.data.features[row]), html("div", {}, dayName(when(this.data.days[column]))), html("div", {}, said));
    this.ask();
  }

  #leave() {
    this.#cursor = null;
    this.hide();
    this.ask();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return this.#open();
    }
    if (!move) return;
    event.preventDefault();
    const { row, column } = this.#cursor ?? this.#chosen ?? { row: 0, column: this.data.days.length - 1 };
    this.#move(Math.max(0, Math.min(this.data.features.length - 1, row + move[0])), Math.max(0, Math.min(this.data.days.length - 1, column + move[1])));
  }

  #open() {
    if (!this.#cursor) return;
    const { row, column } = (this.#chosen = { ...this.#cursor });
    const address = `${this.getAttribute("href")}${encodeURIComponent(this.data.features[row])}/${this.data.days[column]}`;
    /** @type {any} */ (window).htmx.ajax("GET", address, { target: this.getAttribute("target"), swap: "innerMorph" });
    this.ask();
  }
}

/** Cut a text to a width. @param {CanvasRenderingContext2D} pen @param {string} text @param {number} width */
function fit(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  let cut = text;
  while (cut.length > 1 && pen.measureText(`${cut}…`).width > width) cut = cut.slice(0, -1);
  return `${cut}…`;
}

customElements.define("k-heat", Heat);
