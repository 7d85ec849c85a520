// The split of the traffic: lanes as wide as their shares, with what flows in them; a shadow's lane is a ghost.
import { Drawn, still, svg } from "./drawn.js";

const HEIGHT = 108;

class Traffic extends Drawn {
  static css = `
  .lane { fill: none; opacity: 0.26; stroke-linecap: butt; }
  .flow { fill: none; stroke-linecap: round; stroke-dasharray: 0.1 15; animation: flow 0.9s linear infinite; }
  .champion { stroke: var(--champion); } .challenger { stroke: var(--challenger); } .fallback { stroke: var(--fallback); }
  .shadow { stroke: var(--challenger); }
  .lane.shadow { stroke-dasharray: 5 4; opacity: 0.5; }
  .flow.shadow { opacity: 0.6; }
  .name { font-size: 13px; font-weight: 650; } .name.champion { fill: var(--champion); stroke: none; } .name.challenger, .name.shadow { fill: var(--challenger); stroke: none; }
  .share { font-size: 11.5px; }
  .in { font-size: 11.5px; }
  @keyframes flow { from { stroke-dashoffset: 0; } to { stroke-dashoffset: -15.1; } }
  `;

  draw() {
    const arms = this.data.arms.filter((/** @type {any} */ arm) => arm.role !== "fallback");
    const width = this.width;
    const picture = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": arms.map((/** @type {any} */ arm) => `${arm.role} v${arm.version} ${arm.planned} %`).join(", ") });
    const [from, to] = [64, width - 78];
    const total = 46;
    const answering = arms.filter((/** @type {any} */ arm) => arm.role !== "shadow");
    const split = arms.length > 1;
    const start = (HEIGHT - total) / 2;
    let offset = start;
    answering.forEach((/** @type {any} */ arm) => {
      const thick = Math.max(3, (total * arm.planned) / 100);
      const y0 = offset + thick / 2;
      const y1 = !split ? HEIGHT / 2 : arm.role === "champion" ? 14 + thick / 2 : HEIGHT - 12 - Math.max(thick / 2, 6);
      offset += (total * arm.planned) / 100;
      this.#lane(picture, arm, from, to, y0, y1, thick, arm.version == null ? "fallback" : arm.role);
    });
    for (const arm of arms) if (arm.role === "shadow") this.#lane(picture, arm, from, to, start + total, HEIGHT - 18, 3, "shadow");
    picture.append(svg("text", { class: "in", x: from - 10, y: HEIGHT / 2 - 2, "text-anchor": "end" }, "requests"));
    picture.append(svg("text", { class: "in", x: from - 10, y: HEIGHT / 2 + 13, "text-anchor": "end" }, "→"));
    this.stage.replaceChildren(picture);
  }

  /** @param {SVGElement} picture @param {any} arm @param {number} from @param {number} to @param {number} y0 @param {number} y1 @param {number} thick @param {string} role */
  #lane(picture, arm, from, to, y0, y1, thick, role) {
    const half = (from + to) / 2;
    const path = `M${from} ${y0} C${half} ${y0} ${half} ${y1} ${to} ${y1}`;
    picture.append(svg("path", { class: `lane ${role}`, d: path, "stroke-width": thick }));
    if (!still.matches) {
      // More traffic, more dots: each row of dots is a thread of the lane.
      const threads = Math.max(1, Math.round(thick / 11));
      for (let thread = 0; thread < threads; thread++) {
        const shift = threads === 1 ? 0 : (thread / (threads - 1) - 0.5) * (thick - 8);
        const line = `M${from} ${y0 + shift} C${half} ${y0 + shift} ${half} ${y1 + shift} ${to} ${y1 + shift}`;
        picture.append(svg("path", { class: `flow ${role}`, d: line, "stroke-width": Math.min(4, Math.max(2.4, thick)), pathLength: null, "stroke-dashoffset": 0, transform: "" }));
      }
    }
    picture.append(svg("text", { class: `name ${role}`, x: to + 10, y: y1 - 1 }, arm.version == null ? "constant" : `v${arm.version}`));
    picture.append(svg("text", { class: "share", x: to + 10, y: y1 + 13 }, role === "shadow" ? "shadow" : `${arm.planned} %`));
  }
}

customElements.define("k-traffic", Traffic);
