// A feature's day over its reference, on the same bins: the reference as a filled ground, the day as bars, its week as a line.
import { Drawn, html, num, svg, ticks } from "./drawn.js";

class Hist extends Drawn {
  static css = `
  .reference { fill: var(--fallback); opacity: 0.32; }
  .day { fill: var(--champion); opacity: 0.85; }
  .week { stroke: var(--ink); stroke-width: 2; }
  .grid { stroke: var(--line); }
  .over { fill: transparent; } .over:hover { fill: var(--ink); fill-opacity: 0.06; }
  .key { display: flex; gap: 14px; margin-bottom: 4px; flex-wrap: wrap; }
  .key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; vertical-align: -1px; }
  .key .r { background: var(--fallback); opacity: 0.45; } .key .d { background: var(--champion); } .key .w { background: var(--ink); height: 2px; width: 14px; vertical-align: 3px; }
  `;

  draw() {
    const { bars } = this.data;
    const height = Number(this.getAttribute("height") ?? 200);
    const [left, right, top] = [38, 4, 6];
    const bottom = bars.length > 8 || bars.some((/** @type {any} */ bar) => brief(bar[0]).length > 6) ? 52 : 24;
    const width = this.width;
    const most = Math.max(0.02, ...bars.flatMap((/** @type {any} */ bar) => bar.slice(1)));
    const step = (width - left - right) / bars.length;
    const y = (/** @type {number} */ value) => top + (1 - value / (most * 1.06)) * (height - top - bottom);
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${this.data.feature} on ${this.data.day} beside its reference` });
    for (const tick of ticks(0, most, 4)) {
      picture.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      picture.append(svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, `${num(100 * tick, 2)} %`));
    }
    const every = Math.ceil(bars.length / Math.max(1, Math.floor((width - left) / 15)));
    bars.forEach((/** @type {[string, number, number, number]} */ [label, reference, day, week], /** @type {number} */ place) => {
      const x = left + place * step;
      picture.append(svg("rect", { class: "reference", x: x + step * 0.06, width: step * 0.88, y: y(reference), height: y(0) - y(reference), rx: 2 }));
      picture.append(svg("rect", { class: "day", x: x + step * 0.28, width: step * 0.44, y: y(day), height: y(0) - y(day), rx: 1.5 }));
      picture.append(svg("line", { class: "week", x1: x + step * 0.1, x2: x + step * 0.9, y1: y(week), y2: y(week) }));
      if (place % every === 0) {
        const [cx, cy] = [x + step / 2, height - bottom + 14];
        const shown = brief(label);
        picture.append(bottom > 30 ? svg("text", { x: cx + 3, y: cy - 2, "text-anchor": "end", transform: `rotate(-42 ${cx} ${cy - 4})` }, shown) : svg("text", { x: cx, y: cy, "text-anchor": "middle" }, shown));
      }
      const over = svg("rect", { class: "over", x, y: top, width: step, height: y(0) - top });
      over.addEventListener("pointermove", () => this.show(x + step / 2, top, html("b", {}, label), html("div", {}, `reference ${percent(reference)}`), html("div", {}, `day ${percent(day)}`), html("div", {}, `7 days ${percent(week)}`)));
      over.addEventListener("pointerleave", () => this.hide());
      picture.append(over);
    });
    const key = html("div", { class: "key" }, html("span", {}, html("i", { class: "r" }), "reference"), html("span", {}, html("i", { class: "d" }), "day"), html("span", {}, html("i", { class: "w" }), "its 7 days"));
    this.stage.replaceChildren(key, picture);
  }
}

/** A bin in few letters: `(0.12, 0.25]` ends at 0.25. @param {string} label */
function brief(label) {
  const found = /^(?:\(\S+ (\S+)\]|<= (\S+)|> (\S+))$/.exec(label);
  const [, inner, first, last] = found ?? [];
  const text = found ? `${last ? ">" : "≤"} ${num(Number(inner ?? first ?? last), 3)}` : label;
  return text.length > 11 ? `${text.slice(0, 10)}…` : text;
}

const percent = (/** @type {number} */ value) => `${(100 * value).toFixed(1)} %`;

customElements.define("k-hist", Hist);
