// Any two columns of runs against each other; a point says its run, and opens it.
import { Drawn, html, svg, ticks } from "./drawn.js";
import { tick } from "./runs-state.js";

class Scatter extends Drawn {
  static css = `
  .grid { stroke: var(--line); } .axis-name { font-weight: 600; fill: var(--ink-2); }
  circle { fill: var(--champion); fill-opacity: 0.6; stroke: var(--surface); cursor: pointer; }
  circle:hover, circle:focus-visible { fill-opacity: 1; stroke: var(--ink); outline: none; }
  `;

  draw() {
    const { runs, x, y } = this.data;
    const width = Math.max(200, this.width);
    const height = Number(this.getAttribute("height") ?? 340);
    const [left, right, top, bottom] = [62, 16, 14, 44];
    const points = runs.map((/** @type {any} */ run, /** @type {number} */ at) => ({ run, x: x.values[at], y: y.values[at] })).filter((/** @type {any} */ one) => one.x !== null && one.y !== null);
    if (!points.length) return this.stage.replaceChildren(html("p", {}, "No run has both."));
    const across = scale(points.map((/** @type {any} */ one) => one.x), left, width - right);
    const up = scale(points.map((/** @type {any} */ one) => one.y), height - bottom, top);
    const picture = svg("svg", { width, height, role: "img", "aria-label": `${y.name} against ${x.name}, ${points.length} runs` });
    for (const [text, place] of up.marks) picture.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: place, y2: place }), svg("text", { x: left - 8, y: place + 4, "text-anchor": "end" }, text));
    for (const [text, place] of across.marks) picture.append(svg("line", { class: "grid", x1: place, x2: place, y1: top, y2: height - bottom }), svg("text", { x: place, y: height - bottom + 16, "text-anchor": "middle" }, text));
    picture.append(svg("text", { class: "axis-name", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, x.name));
    picture.append(svg("text", { class: "axis-name", transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.name));
    for (const one of points) {
      const dot = svg("circle", { cx: across.at(one.x), cy: up.at(one.y), r: points.length > 200 ? 4 : 5.5, tabindex: 0, role: "link", "aria-label": one.run.name });
      const say = () => this.show(across.at(one.x), up.at(one.y), html("b", {}, one.run.name), html("div", {}, `${x.name}  ${word(one.x)}`), html("div", {}, `${y.name}  ${word(one.y)}`));
      dot.addEventListener("pointerenter", say);
      dot.addEventListener("focus", say);
      dot.addEventListener("pointerleave", () => this.hide());
      dot.addEventListener("blur", () => this.hide());
      const open = () => location.assign(`/runs/${encodeURIComponent(one.run.id)}`);
      dot.addEventListener("click", open);
      dot.addEventListener("keydown", (event) => /** @type {KeyboardEvent} */ (event).key === "Enter" && open());
      picture.append(dot);
    }
    this.stage.replaceChildren(picture);
  }
}

/** @param {any} value */
const word = (value) => (typeof value === "number" ? tick(value, 5) : String(value));

/** @param {any[]} values @param {number} from @param {number} to @returns {{at: (value: any) => number, marks: [string, number][]}} */
function scale(values, from, to) {
  if (values.every((one) => typeof one === "number")) {
    let low = Math.min(...values);
    let high = Math.max(...values);
    if (low > 0 && high / low > 100) {
      const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
      const at = (/** @type {number} */ value) => from + ((Math.log10(value) - first) / (last - first)) * (to - from);
      return { at, marks: Array.from({ length: last - first + 1 }, (_, place) => [word(10 ** (first + place)), at(10 ** (first + place))]) };
    }
    const room = (high - low || Math.abs(low) * 0.1 || 1) * 0.05;
    [low, high] = [low - room, high + room];
    const at = (/** @type {number} */ value) => from + ((value - low) / (high - low)) * (to - from);
    return { at, marks: ticks(low, high, Math.max(3, Math.abs(to - from) / 74)).map((one) => [word(one), at(one)]) };
  }
  const words = [...new Set(values.map(String))].sort();
  const at = (/** @type {any} */ value) => from + ((words.indexOf(String(value)) + 0.5) / words.length) * (to - from);
  return { at, marks: words.slice(0, 20).map((one) => [one.length > 12 ? `${one.slice(0, 11)}…` : one, at(one)]) };
}

customElements.define("k-scatter", Scatter);
