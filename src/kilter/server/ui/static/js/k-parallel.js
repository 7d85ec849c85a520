// Runs as lines through their params and metrics; a stretch of an axis that is brushed keeps only the lines through it.
import { Drawn, html, svg } from "./drawn.js";
import { tick } from "./runs-state.js";

const TOP = 46;
const BOTTOM = 18;

class Parallel extends Drawn {
  static css = `
  canvas { position: absolute; inset: 0; pointer-events: none; }
  svg { position: relative; touch-action: pan-x; }
  .axis { stroke: var(--line-strong); stroke-width: 1; }
  .name { font-weight: 600; fill: var(--ink-2); }
  .metric { fill: var(--champion); }
  .end { font-size: 10.5px; }
  .hit { fill: transparent; cursor: ns-resize; }
  .brush { fill: var(--champion); opacity: 0.28; stroke: var(--champion); pointer-events: none; }
  .hit:focus-visible { outline: 2px solid var(--focus); }
  p { margin: 4px 0 0; }
  button { font: inherit; color: var(--champion); background: none; border: 0; padding: 0; cursor: pointer; text-decoration: underline; }
  `;

  /** @type {Map<string, [number, number]>} */ brushes = new Map();

  draw() {
    this.read();
    const { axes, runs } = this.data;
    const height = Number(this.getAttribute("height") ?? 340);
    const step = Math.max(92, (this.width - 80) / Math.max(1, axes.length - 1));
    const width = Math.max(this.width, step * (axes.length - 1) + 80);
    const scales = axes.map((/** @type {any} */ axis, /** @type {number} */ at) => this.scale(axis, 40 + at * step, height));
    const picture = svg("svg", { width, height, role: "img", "aria-label": `${runs.length} runs over ${axes.length} axes` });
    const canvas = /** @type {HTMLCanvasElement} */ (html("canvas"));
    for (const [at, scale] of scales.entries()) {
      const axis = axes[at];
      const label = axis.name.length > 16 ? `${axis.name.slice(0, 15)}…` : axis.name;
      picture.append(svg("text", { class: `name${axis.metric ? " metric" : ""}`, x: scale.x, y: at % 2 && step < 120 ? 14 : 28, "text-anchor": at === 0 ? "start" : at === axes.length - 1 ? "end" : "middle", ...(at === 0 ? { dx: -30 } : at === axes.length - 1 ? { dx: 30 } : {}) }, label, svg("title", {}, axis.name)));
      picture.append(svg("line", { class: "axis", x1: scale.x, x2: scale.x, y1: TOP, y2: height - BOTTOM }));
      for (const [text, y] of scale.marks) picture.append(svg("text", { class: "end", x: scale.x + (at === axes.length - 1 ? -6 : 6), y: y + 4, "text-anchor": at === axes.length - 1 ? "end" : "start" }, text));
      const brush = svg("rect", { class: "brush", x: scale.x - 7, width: 14, y: 0, height: 0, rx: 3 });
      const held = this.brushes.get(axis.key);
      if (held) this.place(brush, held.map((one) => TOP + one * (height - TOP - BOTTOM)));
      const hit = svg("rect", { class: "hit", x: scale.x - 16, width: 32, y: TOP - 6, height: height - TOP - BOTTOM + 12, tabindex: 0, role: "slider", "aria-label": `Brush ${axis.name}`, "aria-valuenow": 0 });
      this.brushing(hit, brush, axis.key, height);
      picture.append(brush, hit);
    }
    const frame = html("div");
    frame.style.cssText = "position: relative; overflow-x: auto;";
    frame.append(canvas, picture);
    this.told = html("p", {});
    this.stage.replaceChildren(frame, this.told);
    this.paint = () => this.lines(canvas, width, height, scales);
    this.paint();
  }

  /** Take the brushes from the address. */
  read() {
    if (this.known) return;
    this.known = true;
    for (const one of (new URLSearchParams(location.search).get("brush") ?? "").split(",").filter(Boolean)) {
      const [key, low, high] = one.split("~");
      if (high && Number(low) < Number(high)) this.brushes.set(key, [Number(low), Number(high)]);
    }
  }

  write() {
    const query = new URLSearchParams(location.search);
    const text = [...this.brushes].map(([key, [low, high]]) => `${key}~${low.toFixed(3)}~${high.toFixed(3)}`).join(",");
    if (text) query.set("brush", text);
    else query.delete("brush");
    history.replaceState(null, "", `?${query}`);
  }

  /** @param {any} axis @param {number} x @param {number} height */
  scale(axis, x, height) {
    const room = height - TOP - BOTTOM;
    const values = axis.values.filter((/** @type {any} */ one) => one !== null);
    if (values.every((/** @type {any} */ one) => typeof one === "number")) {
      let low = Math.min(...values);
      let high = Math.max(...values);
      const log = low > 0 && high / low > 100;
      const bend = (/** @type {number} */ one) => (log ? Math.log10(one) : one);
      const span = bend(high) - bend(low) || 1;
      const y = (/** @type {number} */ one) => TOP + (1 - (bend(one) - bend(low)) / span) * room;
      if (!values.length) [low, high] = [0, 0];
      const middle = log ? 10 ** ((bend(low) + bend(high)) / 2) : (low + high) / 2;
      const marks = low === high ? [[tick(low), y(low)]] : [[tick(high), TOP], [tick(middle, 2), TOP + room / 2], [tick(low), TOP + room]];
      return { x, y, marks };
    }
    const words = [...new Set(values.map(String))].sort();
    const y = (/** @type {any} */ one) => TOP + ((words.indexOf(String(one)) + 0.5) / words.length) * room;
    return { x, y, marks: words.slice(0, 14).map((word) => [word.length > 10 ? `${word.slice(0, 9)}…` : word, y(word)]) };
  }

  /** @param {SVGElement} brush @param {number[]} ends */
  place(brush, ends) {
    brush.setAttribute("y", String(Math.min(...ends)));
    brush.setAttribute("height", String(Math.abs(ends[1] - ends[0])));
  }

  /** @param {SVGElement} hit @param {SVGElement} brush @param {string} key @param {number} height */
  brushing(hit, brush, key, height) {
    let from = 0;
    const at = (/** @type {PointerEvent} */ event) => Math.max(0, Math.min(1, (event.clientY - hit.getBoundingClientRect().top - 6) / (height - TOP - BOTTOM)));
    const hold = (/** @type {number} */ low, /** @type {number} */ high) => {
      if (high - low < 0.02) this.brushes.delete(key);
      else this.brushes.set(key, [low, high]);
      this.place(brush, this.brushes.has(key) ? [low, high].map((one) => TOP + one * (height - TOP - BOTTOM)) : [0, 0]);
      this.write();
      this.paint?.();
    };
    hit.addEventListener("pointerdown", (event) => {
      from = at(/** @type {PointerEvent} */ (event));
      hit.setPointerCapture(/** @type {PointerEvent} */ (event).pointerId);
      const move = (/** @type {Event} */ moved) => hold(Math.min(from, at(/** @type {PointerEvent} */ (moved))), Math.max(from, at(/** @type {PointerEvent} */ (moved))));
      hit.addEventListener("pointermove", move);
      hit.addEventListener("pointerup", (ended) => (hit.removeEventListener("pointermove", move), move(ended)), { once: true });
    });
    hit.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -0.1, ArrowDown: 0.1 }[/** @type {KeyboardEvent} */ (event).key];
      if (/** @type {KeyboardEvent} */ (event).key === "Escape") hold(0, 0);
      if (!step) return;
      event.preventDefault();
      const [low] = this.brushes.get(key) ?? [step > 0 ? -0.1 : 0.9, 0];
      const next = Math.max(0, Math.min(0.8, low + step));
      hold(next, next + 0.2);
    });
  }

  /** @param {HTMLCanvasElement} canvas @param {number} width @param {number} height @param {any[]} scales */
  lines(canvas, width, height, scales) {
    const { axes, runs } = this.data;
    const sharp = Math.min(2, devicePixelRatio || 1);
    canvas.width = width * sharp;
    canvas.height = height * sharp;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.scale(sharp, sharp);
    const room = height - TOP - BOTTOM;
    const fits = runs.map((/** @type {any} */ _, /** @type {number} */ run) =>
      axes.every((/** @type {any} */ axis, /** @type {number} */ at) => {
        const held = this.brushes.get(axis.key);
        if (!held) return true;
        const value = axis.values[run];
        if (value === null) return false;
        const y = (scales[at].y(value) - TOP) / room;
        return y >= held[0] - 1e-9 && y <= held[1] + 1e-9;
      }),
    );
    const goal = scales[scales.length - 1];
    const last = axes[axes.length - 1];
    const [near, far] = [this.colour("--champion"), this.colour("--challenger")];
    for (const wanted of [false, true]) {
      for (const [run, fit] of fits.entries()) {
        if (fit !== wanted) continue;
        pen.beginPath();
        let down = false;
        for (const [at, axis] of axes.entries()) {
          const value = axis.values[run];
          if (value === null) {
            down = false;
            continue;
          }
          const y = scales[at].y(value);
          if (down) pen.lineTo(scales[at].x, y);
          else pen.moveTo(scales[at].x, y);
          down = true;
        }
        const share = last.values[run] === null ? 0.5 : (goal.y(last.values[run]) - TOP) / room;
        pen.strokeStyle = fit ? (share > 0.5 ? near : far) : this.colour("--line-strong");
        pen.globalAlpha = fit ? Math.max(0.25, Math.min(0.9, 30 / runs.length)) : 0.18;
        pen.lineWidth = fit ? 1.4 : 1;
        pen.stroke();
      }
    }
    const left = fits.filter(Boolean).length;
    this.left = left;
    this.told?.replaceChildren(this.brushes.size ? `${left} of ${runs.length} runs pass through what is brushed. ` : "Drag along an axis to keep only the runs that pass there. ");
    if (!this.brushes.size || !this.told) return;
    const clear = html("button", { type: "button" }, "Clear");
    clear.addEventListener("click", () => (this.brushes.clear(), this.write(), this.ask()));
    this.told.append(clear);
    if (left && left <= 60) {
      const only = html("button", { type: "button" }, "Compare only these");
      only.addEventListener("click", () => location.assign(`/compare?runs=${runs.filter((/** @type {any} */ _, /** @type {number} */ at) => fits[at]).map((/** @type {any} */ one) => encodeURIComponent(one.id)).join(",")}`));
      this.told.append(" · ", only);
    }
  }
}

customElements.define("k-parallel", Parallel);
