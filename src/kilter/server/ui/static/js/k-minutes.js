// What was asked per minute, hour or day: stacked bars and lines over bins of equal length; a crosshair says a bin's values.
import { Drawn, html, num, svg, ticks } from "./drawn.js";

/** @typedef {{name: string, role: string, counts: number[]}} Layer */
/** @typedef {{name: string, role: string, values: (number | null)[]}} Line */

const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const STEPS = [60, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800];

class Minutes extends Drawn {
  static css = `
  .champion { --c: var(--champion); } .challenger { --c: var(--challenger); } .direct { --c: var(--shadow); }
  .fallback { --c: var(--open); } .constant { --c: var(--fail); }
  .p50 { --c: var(--champion); } .p95 { --c: var(--open); } .p99 { --c: var(--fail); }
  rect.bar { fill: var(--c); } .line { fill: none; stroke: var(--c); stroke-width: 1.6; stroke-linejoin: round; }
  .dot { fill: var(--c); }
  .grid { stroke: var(--line); stroke-width: 1; }
  .cross { fill: var(--ink); opacity: 0.07; }
  .key { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 0 0 4px; color: var(--ink-2); }
  .key i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; background: var(--c); }
  svg:focus-visible { outline: 2px solid var(--focus); outline-offset: 3px; border-radius: 4px; }
  `;

  /** @type {number | null} */ #at = null;

  draw() {
    /** @type {Layer[]} */ const layers = this.data.layers;
    /** @type {Line[]} */ const lines = this.data.lines;
    const bins = (layers[0]?.counts ?? lines[0]?.values ?? []).length;
    if (!bins) return;
    const start = Date.parse(this.data.start) / 1000;
    const step = this.data.step;
    const [left, right, top, bottom] = [44, 6, 8, 22];
    const width = Math.max(160, this.width);
    const height = Number(this.getAttribute("height") ?? 140);
    const sums = Array.from({ length: bins }, (_, bin) => layers.reduce((sum, layer) => sum + layer.counts[bin], 0));
    const most = Math.max(...sums, ...lines.flatMap((line) => line.values.map((value) => value ?? 0))) || 1;
    const wide = (width - left - right) / bins;
    const x = (/** @type {number} */ bin) => left + bin * wide;
    const y = (/** @type {number} */ value) => top + (1 - value / (most * 1.06)) * (height - top - bottom);
    const label = lines.length ? lines.map((line) => line.name).join(", ") : layers.map((layer) => `${layer.name} ${layer.counts.reduce((a, b) => a + b, 0)} rows`).join(", ");
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": label });
    for (const value of ticks(0, most, Math.max(2, (height - top - bottom) / 32))) {
      picture.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      picture.append(svg("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, value >= 1000 ? num(value, 4) : String(value)));
    }
    const every = STEPS.find((one) => (bins * step) / one <= (width - left) / 62) ?? 172800;
    for (let at = Math.ceil(start / every) * every; at <= start + bins * step; at += every) {
      const place = x((at - start) / step);
      if (place > width - 18) break;
      picture.append(svg("line", { class: "grid", x1: place, x2: place, y1: height - bottom, y2: height - bottom + 4 }));
      picture.append(svg("text", { x: place, y: height - bottom + 16, "text-anchor": place < left + 12 ? "start" : "middle" }, at % 86400 ? clock(at) : day(at)));
    }
    for (let bin = 0; bin < bins; bin++) {
      let below = 0;
      for (const layer of layers) {
        const count = layer.counts[bin];
        if (!count) continue;
        const [upper, lower] = [y(below + count), y(below)];
        picture.append(svg("rect", { class: `bar ${layer.role}`, x: x(bin) + wide * 0.1, width: Math.max(1, wide * 0.8), y: upper, height: Math.max(1, lower - upper) }));
        below += count;
      }
    }
    for (const line of lines) {
      let path = "";
      line.values.forEach((value, bin) => {
        if (value == null) return;
        const alone = line.values[bin - 1] == null && line.values[bin + 1] == null;
        if (alone) picture.append(svg("circle", { class: `dot ${line.role}`, cx: x(bin + 0.5), cy: y(value), r: 2 }));
        else path += `${line.values[bin - 1] == null ? "M" : "L"}${x(bin + 0.5).toFixed(1)} ${y(value).toFixed(1)}`;
      });
      if (path) picture.append(svg("path", { class: `line ${line.role}`, d: path }));
    }
    const cross = svg("rect", { class: "cross", y: top, width: Math.max(1, wide), height: height - top - bottom, visibility: "hidden" });
    picture.append(cross);
    const key = [...layers, ...lines].map((one) => html("span", {}, html("i", { class: one.role }), one.name));
    this.stage.replaceChildren(html("div", { class: "key" }, ...key), picture);
    const show = (/** @type {number} */ bin) => {
      this.#at = bin;
      cross.setAttribute("x", String(x(bin)));
      cross.setAttribute("visibility", "visible");
      const at = start + bin * step;
      const said = [html("b", {}, `${day(at)}, ${clock(at)} UTC`)];
      for (const layer of layers) if (layer.counts[bin]) said.push(html("div", {}, `${layer.name}  `, html("b", {}, layer.counts[bin].toLocaleString("en"))));
      for (const line of lines) if (line.values[bin] != null) said.push(html("div", {}, `${line.name}  `, html("b", {}, `${line.values[bin]} ms`)));
      this.show(x(bin), top, ...said);
    };
    const away = () => {
      this.#at = null;
      cross.setAttribute("visibility", "hidden");
      this.hide();
    };
    picture.addEventListener("pointermove", (event) => {
      const bin = Math.floor((event.clientX - picture.getBoundingClientRect().left - left) / wide);
      if (bin < 0 || bin >= bins) away();
      else show(bin);
    });
    picture.addEventListener("pointerleave", away);
    picture.addEventListener("blur", away);
    picture.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      show(Math.max(0, Math.min(bins - 1, (this.#at ?? bins) + by)));
    });
    if (this.#at != null) show(this.#at);
  }
}

/** @param {number} seconds */
const clock = (seconds) => `${two(Math.floor((seconds % 86400) / 3600))}:${two(Math.floor((seconds % 3600) / 60))}`;

/** @param {number} seconds */
function day(seconds) {
  const at = new Date(seconds * 1000);
  return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]}`;
}

customElements.define("k-minutes", Minutes);
