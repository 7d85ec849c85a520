// Lines over days with bands, rules, marks and lanes of what happened; a crosshair says the values of a day.
import { Drawn, dates, dayName, html, num, svg, ticks, when } from "./drawn.js";

/** @typedef {[string, number, number | null, number | null]} Point */
/** @typedef {{name: string, role: string, points: Point[]}} Line */

const LANES = ["alarm", "shadow", "canary"];
const DAY = 86400000;
const LANE = 14;

class Lines extends Drawn {
  static css = `
  .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
  .band { stroke: none; opacity: 0.15; }
  .champion { --c: var(--champion); } .challenger { --c: var(--challenger); } .truth { --c: var(--truth); }
  .pass { --c: var(--pass); } .fail { --c: var(--fail); }
  .line { stroke: var(--c); } .band, .spot { fill: var(--c); }
  .truth.line { stroke-dasharray: 5 3; stroke-width: 1.6; }
  .grid { stroke: var(--line); stroke-width: 1; }
  .rule { stroke: var(--ink-3); stroke-width: 1; stroke-dasharray: 4 3; }
  .mark { stroke: var(--champion); stroke-width: 1; stroke-dasharray: 2 2; opacity: 0.7; }
  .mark-label { fill: var(--champion); font-weight: 650; }
  .lane-alarm { fill: var(--fail); } .lane-shadow { fill: none; stroke: var(--challenger); stroke-dasharray: 3 2; } .lane-canary { fill: var(--challenger); }
  .lane-name { font-size: 10.5px; }
  .cross { stroke: var(--ink-3); stroke-width: 1; }
  .spot { stroke: var(--surface); stroke-width: 1.5; }
  .key { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 0 0 4px; color: var(--ink-2); }
  .key i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px; vertical-align: middle; background: var(--c); }
  .key .rule-key { background: none; border-top: 1.5px dashed var(--ink-3); height: 0; }
  .end { font-weight: 600; fill: var(--c); }
  svg:focus-visible { outline: 2px solid var(--focus); outline-offset: 3px; border-radius: 4px; }
  `;

  /** @type {number | null} */ #at = null;

  draw() {
    const chart = this.data;
    /** @type {Line[]} */ const lines = chart.series;
    const full = Number(this.getAttribute("height") ?? 180);
    const lanes = LANES.filter((lane) => chart.spans.some((/** @type {any} */ span) => span.lane === lane));
    const left = 44;
    const right = 10;
    const top = chart.moments.length ? 16 : 8;
    const bottom = 22 + lanes.length * LANE;
    const width = Math.max(120, this.width);
    const height = full + lanes.length * LANE;
    const days = lines.flatMap((line) => line.points.map((point) => when(point[0])));
    if (!days.length) return;
    let [x0, x1] = [Math.min(...days), Math.max(...days)];
    if (x1 - x0 < 6 * DAY) x1 = x0 + 6 * DAY;
    const [y0, y1] = this.#range(chart, lines);
    const value = (/** @type {number} */ v) => (chart.log ? Math.log10(v) : v);
    const x = (/** @type {number} */ at) => left + ((at - x0) / (x1 - x0)) * (width - left - right);
    const y = (/** @type {number} */ v) => top + (1 - (value(v) - y0) / (y1 - y0)) * (height - top - bottom);
    const clamp = (/** @type {number} */ at) => Math.max(left, Math.min(width - right, x(at)));

    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": `${chart.title}. ${lines.map((line) => `${line.name}: ${this.#say(line.points[line.points.length - 1][1])}`).join(", ")}` });
    picture.append(svg("clipPath", { id: "plot" }, svg("rect", { x: left, y: top - 1, width: width - left - right, height: height - top - bottom + 2 })));
    const steps = chart.log ? this.#powers(y0, y1) : ticks(y0, y1, Math.max(2, (height - top - bottom) / 28));
    for (const step of steps) {
      picture.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(step), y2: y(step) }));
      picture.append(svg("text", { x: left - 7, y: y(step) + 4, "text-anchor": "end" }, this.#say(step, steps)));
    }
    for (const { at, label } of dates(x0, x1, Math.floor((width - left) / 62))) {
      const place = x(at);
      picture.append(svg("line", { class: "grid", x1: place, x2: place, y1: height - bottom, y2: height - bottom + 4 }));
      if (place < width - 14) picture.append(svg("text", { x: place, y: height - bottom + 16, "text-anchor": place < left + 12 ? "start" : "middle" }, label));
    }
    for (const rule of chart.rules) {
      const at = y(rule.value);
      if (at >= top - 1 && at <= height - bottom + 1) picture.append(svg("line", { class: "rule", x1: left, x2: width - right, y1: at, y2: at }));
    }
    for (const line of lines) {
      for (const run of runs(line.points)) {
        const banded = run.filter((point) => point[2] != null && point[3] != null);
        if (banded.length > 1) {
          const upper = banded.map((point) => `${x(when(point[0])).toFixed(1)},${y(Number(point[3])).toFixed(1)}`);
          const lower = banded.map((point) => `${x(when(point[0])).toFixed(1)},${y(Number(point[2])).toFixed(1)}`).reverse();
          picture.append(svg("polygon", { class: `band ${line.role}`, "clip-path": "url(#plot)", points: [...upper, ...lower].join(" ") }));
        }
      }
    }
    let lastLabel = -100;
    for (const moment of chart.moments) {
      // A line begins some days after its version does: three days make its first mean.
      const at = Math.max(x0, when(moment.at));
      if (at - when(moment.at) > 4 * DAY || at > x1) continue;
      picture.append(svg("line", { class: "mark", x1: x(at), x2: x(at), y1: top - 2, y2: height - bottom }));
      if (x(at) - lastLabel > 22) picture.append(svg("text", { class: "mark-label", x: x(at), y: top - 5, "text-anchor": x(at) < left + 10 ? "start" : "middle" }, moment.label));
      lastLabel = x(at);
    }
    for (const line of lines) {
      for (const run of runs(line.points)) {
        const path = run.map((point, place) => `${place ? "L" : "M"}${x(when(point[0])).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("");
        if (run.length === 1) picture.append(svg("circle", { class: `spot ${line.role}`, cx: x(when(run[0][0])), cy: y(run[0][1]), r: 3 }));
        else picture.append(svg("path", { class: `line ${line.role}`, d: path }));
      }
    }
    lanes.forEach((lane, place) => {
      const base = height - lanes.length * LANE + place * LANE + 3;
      picture.append(svg("text", { class: "lane-name", x: left - 7, y: base + 6, "text-anchor": "end" }, lane));
      for (const span of chart.spans) {
        if (span.lane !== lane) continue;
        const [from, to] = [clamp(when(span.start)), clamp(when(span.end) + (span.open ? DAY : 0))];
        const [who] = span.label.split(" ");
        const next = Math.min(width, ...chart.spans.filter((/** @type {any} */ one) => one.lane === lane && when(one.start) > when(span.start)).map((/** @type {any} */ one) => clamp(when(one.start))));
        if (lane !== "alarm" && next - to > 22) picture.append(svg("text", { class: "lane-name", x: to + 4, y: base + 6 }, who));
        picture.append(svg("rect", { class: `lane-${lane}`, x: from, y: base, width: Math.max(2, to - from), height: 5, rx: 2.5 }, svg("title", {}, `${span.label}, ${dayName(when(span.start))} to ${span.open ? "now" : dayName(when(span.end))}`)));
      }
    });
    const cross = svg("g", {});
    picture.append(cross);
    this.stage.replaceChildren(this.#key(chart, lines), picture);
    this.#follow(picture, cross, { lines, x, y, left, right, top, bottom, width, height, x0, x1 });
  }

  /** @param {any} chart @param {Line[]} lines @returns {[number, number]} */
  #range(chart, lines) {
    const ends = lines.flatMap((line) => line.points.map((point) => point[1]));
    const bands = lines.flatMap((line) => line.points.flatMap((point) => [point[2], point[3]])).filter((one) => one != null).map(Number);
    const rules = chart.rules.map((/** @type {any} */ rule) => rule.value);
    if (chart.funnel) {
      const newest = lines.flatMap((line) => line.points.slice(-1).flatMap((point) => [point[2], point[3]])).filter((one) => one != null).map(Number);
      const room = (Math.max(...ends, ...rules, ...newest) - Math.min(...ends, ...rules, ...newest) || 1) * 0.12;
      return [Math.min(...ends, ...rules, ...newest) - room, Math.max(...ends, ...rules, ...newest) + room];
    }
    if (chart.log) {
      const all = [...ends, ...rules].map((one) => Math.log10(one));
      return [Math.min(-1, ...all) - 0.15, Math.max(1, ...all) + 0.2];
    }
    // A band of few days can be huge; it may be cut, the lines and the rules may not.
    const spread = (Math.max(...ends, ...rules) - Math.min(...ends, ...rules)) || Math.abs(ends[0]) * 0.2 || 1;
    const low = Math.max(Math.min(...ends, ...rules) - spread * 0.35, Math.min(...bands, ...ends, ...rules));
    const high = Math.min(Math.max(...ends, ...rules) + spread * 0.35, Math.max(...bands, ...ends, ...rules));
    const room = (high - low || 1) * 0.06;
    return [chart.percent ? Math.max(0, low - room) : low - room, high + room];
  }

  /** @param {number} low @param {number} high */
  #powers(low, high) {
    const found = [];
    for (let power = Math.ceil(low); power <= high; power += Math.ceil((high - low) / 5)) found.push(10 ** power);
    return found;
  }

  /** @param {number} value @param {number[]} [beside] */
  #say(value, beside) {
    if (this.data.percent) return `${(100 * value).toFixed(beside ? 0 : 1)} %`;
    if (this.data.log) return value >= 1000 ? `10${"⁰¹²³⁴⁵⁶⁷⁸⁹"[Math.round(Math.log10(value))] ?? ""}` : value >= 10 ? String(Math.round(value)) : num(value, 2);
    if (beside && beside.length > 1) {
      const digits = Math.max(0, Math.min(4, -Math.floor(Math.log10(beside[1] - beside[0]) + 1e-9) + (String(beside[1] - beside[0]).includes("25") ? 1 : 0)));
      return value.toFixed(digits).replace("-", "−");
    }
    return num(value, 4);
  }

  /** @param {any} chart @param {Line[]} lines */
  #key(chart, lines) {
    const shown = new Map();
    for (const line of lines) shown.set(line.role === "truth" || lines.length <= 2 ? line.name : line.role, line.role);
    const items = [...shown].map(([name, role]) => html("span", {}, html("i", { class: role }), name));
    for (const rule of chart.rules) items.push(html("span", {}, html("i", { class: "rule-key" }), rule.label));
    return html("div", { class: "key" }, ...items);
  }

  /** @param {SVGElement} picture @param {SVGElement} cross @param {any} scales */
  #follow(picture, cross, scales) {
    const { lines, x, y, left, top, bottom, width, right, height, x0, x1 } = scales;
    const show = (/** @type {number} */ at) => {
      const day = Math.round(at / DAY) * DAY;
      /** @type {Node[]} */ const said = [html("b", {}, dayName(day))];
      cross.replaceChildren(svg("line", { class: "cross", x1: x(day), x2: x(day), y1: top, y2: height - bottom }));
      for (const line of /** @type {Line[]} */ (lines)) {
        const point = line.points.find((one) => when(one[0]) === day);
        if (!point) continue;
        cross.append(svg("circle", { class: `spot ${line.role}`, cx: x(day), cy: y(point[1]), r: 4 }));
        const band = point[2] == null || point[3] == null ? "" : `  [${this.#say(point[2])}, ${this.#say(point[3])}]`;
        said.push(html("div", {}, `${line.name}  `, html("b", {}, this.#say(point[1])), band));
      }
      for (const span of this.data.spans) if (day >= when(span.start) - DAY && day <= when(span.end)) said.push(html("div", {}, span.lane === "alarm" ? `alarm ${span.label}` : span.label));
      if (said.length === 1) return this.hide();
      this.show(x(day), top, ...said);
    };
    const away = () => {
      this.#at = null;
      cross.replaceChildren();
      this.hide();
    };
    picture.addEventListener("pointermove", (event) => {
      const place = event.clientX - picture.getBoundingClientRect().left;
      if (place < left - 6 || place > width - right + 6) return away();
      this.#at = x0 + ((place - left) / (width - left - right)) * (x1 - x0);
      show(this.#at);
    });
    picture.addEventListener("pointerleave", away);
    picture.addEventListener("blur", away);
    picture.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -DAY, ArrowRight: DAY }[event.key];
      if (!step) return;
      event.preventDefault();
      this.#at = Math.max(x0, Math.min(x1, (this.#at ?? x1 - step) + step));
      show(this.#at);
    });
    if (this.#at != null) show(this.#at);
  }
}

/** Split points where days are missing. @param {Point[]} points @returns {Point[][]} */
function runs(points) {
  /** @type {Point[][]} */ const found = [];
  let last = -Infinity;
  for (const point of points) {
    const at = when(point[0]);
    if (at - last > 2.5 * DAY) found.push([]);
    found[found.length - 1].push(point);
    last = at;
  }
  return found;
}

customElements.define("k-lines", Lines);
