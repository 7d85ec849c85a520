// The eight stages of a model's life as a closed track, with the versions where they stand and what moves between them.
import { Drawn, still, svg } from "./drawn.js";

const ICONS = {
  data: "M-6 -5c0-1.6 2.7-2.6 6-2.600s6 1 6 2.600v10c0 1.6-2.7 2.6-6 2.600s-6-1-6-2.600zM-6-5c0 1.6 2.7 2.6 6 2.600s6-1 6-2.600M-6 0c0 1.6 2.7 2.6 6 2.600s6-1 6-2.6",
  features: "M-7 5.500h4v-5h-4zM-2 5.500h4v-11h-4zM3 5.500h4v-8h-4z",
  training: "M-7 6l4.5-6 3.5 3 6-8M3-5h4v4",
  gates: "M-7 7v-10l7-4 7 4v10M-7-3h14M-2.5-3v10M2.5-3v10",
  release: "M-7 0h5l4-5h5M-2 0l4 5h5",
  serving: "M-7-5h14v4.500h-14zM-7 2h14v4.500h-14zM-4-2.700h.1M-4 4.300h.1",
  monitoring: "M-7.5 1h3.500l2.5-6 3.5 10 2-4h3.5",
  retraining: "M6.5-2.500a6.8 6.8 0 1 0 .5 4.500M7-7v4.500h-4.5",
};

class Loop extends Drawn {
  static css = `
  .track { fill: none; stroke: var(--line); stroke-width: 12; }
  .ground { fill: none; stroke: var(--surface); stroke-width: 1.5; stroke-dasharray: 1 9; stroke-linecap: round; }
  .moving .ground { stroke: var(--ink-3); opacity: 0.55; animation: round 1.2s linear infinite; }
  .answers { fill: none; stroke-linecap: round; stroke-width: 4; stroke-dasharray: 0.1 14; animation: answers 0.8s linear infinite; }
  .answers.champion { stroke: var(--champion); } .answers.challenger { stroke: var(--challenger); }
  .segment { fill: none; stroke-width: 12; opacity: 0.18; }
  .segment.champion { stroke: var(--champion); } .segment.challenger { stroke: var(--challenger); } .segment.bad { stroke: var(--fail); }
  .node { fill: var(--surface); stroke: var(--line-strong); stroke-width: 1.5; }
  .icon { fill: none; stroke: var(--ink-2); stroke-width: 1.5; stroke-linecap: round; stroke-linejoin: round; }
  .busy .node { fill: var(--challenger-soft); stroke: var(--challenger); stroke-width: 2; } .busy .icon { stroke: var(--challenger); }
  .bad .node { fill: var(--fail-soft); stroke: var(--fail); stroke-width: 2; } .bad .icon { stroke: var(--fail); } .bad .note { fill: var(--fail); font-weight: 600; }
  .open .node { fill: var(--open-soft); stroke: var(--open); } .open .icon { stroke: var(--open); } .open .note { fill: var(--open); }
  .pulse { fill: none; stroke: var(--challenger); stroke-width: 2; transform-box: fill-box; transform-origin: center; animation: pulse 1.8s ease-out infinite; }
  .bad .pulse { stroke: var(--fail); }
  .name { font-size: 13px; font-weight: 650; fill: var(--ink); }
  .note { font-size: 12px; fill: var(--ink-3); }
  .busy .note { fill: var(--challenger); }
  .token rect { stroke: var(--surface); stroke-width: 2; }
  .token text { font-size: 12px; font-weight: 700; fill: var(--surface); }
  .token.champion rect { fill: var(--champion); } .token.challenger rect { fill: var(--challenger); }
  .token { transition: transform 700ms cubic-bezier(0.3, 0, 0.2, 1); }
  .middle-big { font-size: 34px; font-weight: 700; letter-spacing: -0.02em; fill: var(--ink); }
  .middle-big.small { font-size: 26px; } .middle-big .c { fill: var(--champion); } .middle-big .h { fill: var(--challenger); }
  .middle { font-size: 13px; fill: var(--ink-2); }
  .gauge { fill: var(--line); } .gauge-fill { fill: var(--challenger); } .gauge-name { font-size: 12px; fill: var(--ink-2); }
  :host { display: flex; } .stage { flex: 1; position: relative; } .stage svg { position: absolute; inset: 0; }
  @keyframes round { to { stroke-dashoffset: -10; } }
  @keyframes answers { to { stroke-dashoffset: -14.1; } }
  @keyframes pulse { from { transform: scale(1); opacity: 0.8; } to { transform: scale(1.75); opacity: 0; } }
  `;

  /** @type {Map<string, SVGElement>} */ #tokens = new Map();

  static fills = true;

  draw() {
    const narrow = this.width < 560;
    const { width } = this;
    const height = Math.max(narrow ? 440 : 360, this.height);
    const track = narrow ? upright(width, height) : lying(width, Math.min(height, 560), height);
    const { stations, busy, champion, challenger, share, mode, paused } = this.data;
    const alive = champion != null && !paused;
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": this.data.headline, class: alive && !still.matches ? "moving" : "" });
    picture.append(svg("path", { class: "track", d: track.path(0, 1) }), svg("path", { class: "ground", d: track.path(0, 1) }));
    const at = (/** @type {number} */ place) => (place + 0.5) / 8;
    if (champion != null) {
      const [from, to] = [at(5), at(6)];
      picture.append(svg("path", { class: "segment champion", d: track.path(from, to) }));
      if (!still.matches) {
        picture.append(svg("path", { class: "answers champion", d: track.path(from, to, share || mode === "shadow" ? -3 : 0) }));
        if (share) picture.append(svg("path", { class: "answers challenger", d: track.path(from, to, 3) }));
        else if (mode === "shadow") picture.append(svg("path", { class: "answers challenger", d: track.path(from, to, 3.5), opacity: 0.45 }));
      }
    }
    if (busy && challenger != null) {
      const index = stations.findIndex((/** @type {any} */ one) => one.key === busy);
      if (index > 2) picture.append(svg("path", { class: "segment challenger", d: track.path(at(2), at(index)) }));
    }
    if (stations[6].tone === "bad") picture.append(svg("path", { class: "segment bad", d: track.path(at(6), at(7)) }));
    stations.forEach((/** @type {any} */ one, /** @type {number} */ place) => picture.append(this.#station(one, track.at(at(place)), place, narrow)));
    this.#middle(picture, width / 2, height / 2, narrow);
    const tokens = svg("g", {});
    picture.append(tokens);
    this.stage.replaceChildren(picture);
    this.#place(tokens, stations, track, at);
  }

  /** @param {any} one @param {{x: number, y: number}} spot @param {number} place @param {boolean} narrow */
  #station(one, spot, place, narrow) {
    const group = svg("g", { class: one.tone, transform: `translate(${spot.x} ${spot.y})` });
    if ((one.tone === "busy" || one.tone === "bad") && !still.matches) group.append(svg("circle", { class: "pulse", r: 19 }));
    group.append(svg("circle", { class: "node", r: 19 }), svg("path", { class: "icon", d: ICONS[/** @type {keyof typeof ICONS} */ (one.key)] }));
    const forth = place < 4;
    if (narrow) {
      const x = forth ? -26 : 26;
      const anchor = forth ? "end" : "start";
      group.append(svg("text", { class: "name", x, y: -2, "text-anchor": anchor }, one.label));
      wrap(one.note, 15).forEach((line, number) => group.append(svg("text", { class: "note", x, y: 13 + number * 14, "text-anchor": anchor }, line)));
      return group;
    }
    if (place % 4 === 0 || place % 4 === 3) {
      // On the bends the words stand outside, beside their stage.
      const right = place === 3 || place === 4;
      const [x, anchor] = right ? [30, "start"] : [-30, "end"];
      group.append(svg("text", { class: "name", x, y: -3, "text-anchor": anchor }, one.label));
      wrap(one.note, 15).forEach((line, number) => group.append(svg("text", { class: "note", x, y: 13 + number * 15, "text-anchor": anchor }, line)));
      return group;
    }
    const [first, second] = forth ? [-45, -29] : [38, 54];
    group.append(svg("text", { class: "name", y: first, "text-anchor": "middle" }, one.label));
    group.append(svg("text", { class: "note", y: second, "text-anchor": "middle" }, one.note));
    return group;
  }

  /** Who serves, who is under proof, and how far the proof is. @param {SVGElement} picture @param {number} x @param {number} y @param {boolean} narrow */
  #middle(picture, x, y, narrow) {
    const { champion, challenger, share, mode, gauges } = this.data;
    const top = y - (narrow ? 0 : 4) - gauges.length * (narrow ? 22 : 15);
    const big = svg("text", { class: narrow ? "middle-big small" : "middle-big", x, y: top, "text-anchor": "middle" });
    if (champion != null) big.append(svg("tspan", { class: "c" }, `v${champion}`));
    if (challenger != null && challenger !== champion) big.append(svg("tspan", { dx: champion != null ? (narrow ? 8 : 14) : 0, class: "h" }, `v${challenger}`));
    if (champion == null && challenger == null) big.append("…");
    const long = champion == null ? "no champion yet" : mode === "canary" ? `${100 - share} % and ${share} % of the traffic` : mode === "shadow" ? "champion, and its shadow" : challenger != null ? "champion and candidate" : "champion, all traffic";
    const brief = champion == null ? "no champion" : mode === "canary" ? `${100 - share} % · ${share} %` : mode === "shadow" ? "shadowed" : "all traffic";
    picture.append(big, svg("text", { class: "middle", x, y: top + 23, "text-anchor": "middle" }, narrow ? brief : long));
    const wide = narrow ? 88 : 200;
    gauges.forEach((/** @type {any} */ gauge, /** @type {number} */ number) => {
      const base = top + 54 + number * (narrow ? 44 : 32);
      const left = x - wide / 2;
      if (narrow) {
        picture.append(svg("text", { class: "gauge-name", x: left, y: base }, gauge.label), svg("text", { class: "gauge-name", x, y: base + 22, "text-anchor": "middle" }, gauge.text));
      } else {
        picture.append(svg("text", { class: "gauge-name", x: left - 10, y: base + 10.5, "text-anchor": "end" }, gauge.label), svg("text", { class: "gauge-name", x: x + wide / 2 + 10, y: base + 10.5 }, gauge.text));
      }
      picture.append(svg("rect", { class: "gauge", x: left, y: base + 4, width: wide, height: 5, rx: 2.5 }), svg("rect", { class: "gauge-fill", x: left, y: base + 4, width: Math.max(5, wide * gauge.value), height: 5, rx: 2.5 }));
    });
  }

  /** Put the versions at their stations; one that has moved travels there. @param {SVGElement} group @param {any[]} stations @param {Track} track @param {(place: number) => number} at */
  #place(group, stations, track, at) {
    const seen = new Set();
    stations.forEach((one, place) => {
      one.tokens.forEach((/** @type {any} */ token, /** @type {number} */ number) => {
        const key = `v${token.version}`;
        const spot = track.at(at(place));
        const size = 14 + 7.2 * key.length;
        const move = `translate(${spot.x + 17 + number * 28}px, ${spot.y - 17}px)`;
        const before = this.#tokens.get(key)?.style.transform;
        const made = /** @type {SVGElement} */ (svg("g", { class: `token ${token.role}` }, svg("rect", { x: -size / 2, y: -10, width: size, height: 20, rx: 10 }), svg("text", { y: 4.2, "text-anchor": "middle" }, key)));
        made.style.transform = before ?? move;
        group.append(made);
        this.#tokens.set(key, made);
        seen.add(key);
        if (before && before !== move) requestAnimationFrame(() => requestAnimationFrame(() => { made.style.transform = move; }));
      });
    });
    for (const key of this.#tokens.keys()) if (!seen.has(key)) this.#tokens.delete(key);
  }
}

/** Break a note into lines of about so many letters. @param {string} text @param {number} most @returns {string[]} */
function wrap(text, most) {
  /** @type {string[]} */ const lines = [];
  for (const word of text.split(" ")) {
    const last = lines.length - 1;
    if (last >= 0 && `${lines[last]} ${word}`.length <= most) lines[last] += ` ${word}`;
    else lines.push(word);
  }
  return lines;
}

/** A track that lies on its side. @param {number} width @param {number} height @param {number} place */
function lying(width, height, place) {
  const [padX, padY] = [width > 760 ? 124 : 104, 66];
  const radius = Math.min((height - 2 * padY) / 2, (width - 2 * padX) / 2);
  return new Track(width / 2, place / 2, Math.max(0, width - 2 * padX - 2 * radius), radius, false);
}

/** A track that stands, for narrow screens. @param {number} width @param {number} height */
function upright(width, height) {
  const radius = Math.min(80, width * 0.2);
  return new Track(height / 2, width / 2, Math.max(0, height - 2 * 24 - 2 * radius), radius, true);
}

/** A track of two straights and two arcs; places on it are between 0 and 1, from the middle of an end on. */
class Track {
  /** @param {number} x @param {number} y The middle. @param {number} straight @param {number} radius @param {boolean} upright With x and y exchanged. */
  constructor(x, y, straight, radius, upright) {
    this.x = x;
    this.y = y;
    this.straight = straight;
    this.radius = radius;
    this.upright = upright;
    this.arc = Math.PI * radius;
    this.length = 2 * straight + 2 * this.arc;
  }

  /** @param {number} place @param {number} [out] How far outside of the middle line. @returns {{x: number, y: number}} */
  at(place, out = 0) {
    const spot = this.#lying(place, out);
    return this.upright ? { x: spot.y, y: spot.x } : spot;
  }

  /** @param {number} place @param {number} out */
  #lying(place, out) {
    let way = (((place % 1) + 1) % 1) * this.length;
    const { x, y, straight, radius, arc } = this;
    const round = (/** @type {number} */ middle, /** @type {number} */ angle) => ({ x: middle + (radius + out) * Math.cos(angle), y: y + (radius + out) * Math.sin(angle) });
    if (way < arc / 2) return round(x - straight / 2, Math.PI + way / radius);
    way -= arc / 2;
    if (way < straight) return { x: x - straight / 2 + way, y: y - radius - out };
    way -= straight;
    if (way < arc) return round(x + straight / 2, -Math.PI / 2 + way / radius);
    way -= arc;
    if (way < straight) return { x: x + straight / 2 - way, y: y + radius + out };
    way -= straight;
    return round(x - straight / 2, Math.PI / 2 + way / radius);
  }

  /** @param {number} from @param {number} to @param {number} [out] */
  path(from, to, out = 0) {
    const span = to - from <= 0 ? to - from + 1 : to - from;
    const steps = Math.max(12, Math.round(span * 160));
    return Array.from({ length: steps + 1 }, (_, step) => {
      const spot = this.at(from + (span * step) / steps, out);
      return `${step ? "L" : "M"}${spot.x.toFixed(1)} ${spot.y.toFixed(1)}`;
    }).join("");
  }
}

customElements.define("k-loop", Loop);
