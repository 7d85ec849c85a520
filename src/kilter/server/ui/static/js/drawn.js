// What all drawn elements share: a shadow root that survives morphing, redrawing at a new size or new data, and scales.

const NS = "http://www.w3.org/2000/svg";

/** @typedef {Record<string, string | number | null | undefined>} Attributes */

/**
 * Make an SVG element.
 * @param {string} name
 * @param {Attributes} [attributes]
 * @param {...(Node | string)} children
 * @returns {SVGElement}
 */
export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) made.setAttribute(key, String(value));
  made.append(...children);
  return made;
}

/**
 * Make an HTML element.
 * @param {string} name
 * @param {Attributes} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function html(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) made.setAttribute(key, String(value));
  made.append(...children);
  return made;
}

/** Whether the reader wants things to stay still. */
export const still = matchMedia("(prefers-reduced-motion: reduce)");

const BASE = `
:host { display: block; position: relative; font: 12px/1.4 var(--sans); font-variant-numeric: tabular-nums; color: var(--ink-2); }
:host([hidden]) { display: none; }
svg { display: block; overflow: visible; }
text { fill: var(--ink-3); font-size: 11.5px; }
.tip { position: absolute; pointer-events: none; z-index: 5; background: var(--ink); color: var(--surface); padding: 6px 9px; border-radius: 7px; font-size: 12px; line-height: 1.45; white-space: nowrap; opacity: 0; transition: opacity 80ms; left: 0; top: 0; max-width: 92vw; }
.tip.on { opacity: 1; }
.tip b { font-weight: 650; }
.sr { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
`;

/** An element that draws the JSON of its `data` attribute into a shadow root, at its own width. */
export class Drawn extends HTMLElement {
  static observedAttributes = ["data"];
  static css = "";
  /** It is as high as its place, so that it has to be drawn again when that changes. */
  static fills = false;

  /** @type {any} */ data = null;
  width = 0;
  height = 0;
  #asked = 0;
  /** @type {ResizeObserver | null} */ #sizes = null;
  #theme = () => this.ask();

  constructor() {
    super();
    this.root = this.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(BASE + /** @type {typeof Drawn} */ (this.constructor).css);
    this.root.adoptedStyleSheets = [sheet];
    this.stage = html("div", { class: "stage" });
    this.tip = html("div", { class: "tip", role: "status" });
    this.root.append(this.stage, this.tip, html("div", { class: "sr" }, html("slot")));
  }

  connectedCallback() {
    this.#sizes = new ResizeObserver(() => {
      const width = Math.round(this.clientWidth);
      const height = Math.round(this.clientHeight);
      const taller = /** @type {typeof Drawn} */ (this.constructor).fills && height !== this.height;
      if (width && (width !== this.width || taller)) {
        this.width = width;
        this.height = height;
        this.ask();
      }
    });
    this.#sizes.observe(this);
    document.addEventListener("kilter:theme", this.#theme);
  }

  disconnectedCallback() {
    this.#sizes?.disconnect();
    document.removeEventListener("kilter:theme", this.#theme);
    cancelAnimationFrame(this.#asked);
  }

  attributeChangedCallback() {
    this.data = JSON.parse(this.getAttribute("data") || "null");
    this.ask();
  }

  /** Draw before the next frame, once, however often it was asked for. */
  ask() {
    if (this.#asked) return;
    this.#asked = requestAnimationFrame(() => {
      this.#asked = 0;
      if (this.isConnected && this.width && this.data) this.draw();
    });
  }

  /** Draw `this.data` into `this.stage`. */
  draw() {}

  /** The value of a colour variable, for canvas. @param {string} name */
  colour(name) {
    return getComputedStyle(this).getPropertyValue(name).trim();
  }

  /**
   * Show the tip beside a point, inside the element.
   * @param {number} x @param {number} y @param {(Node | string)[]} content
   */
  show(x, y, ...content) {
    this.tip.replaceChildren(...content);
    this.tip.classList.add("on");
    const width = this.tip.offsetWidth;
    const left = x + 14 + width > this.width ? x - width - 14 : x + 14;
    this.tip.style.transform = `translate(${Math.round(Math.max(0, Math.min(left, this.width - width)))}px, ${Math.round(Math.max(-8, y))}px)`;
  }

  hide() {
    this.tip.classList.remove("on");
  }
}

const DAY = 86400000;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** @param {string} text A date or moment. @returns {number} Milliseconds, UTC. */
export const when = (text) => Date.parse(text.length === 10 ? `${text}T00:00:00Z` : text);

/** @param {number} ms @param {boolean} [year] */
export function dayName(ms, year = true) {
  const at = new Date(ms);
  return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]}${year ? ` ${at.getUTCFullYear()}` : ""}`;
}

/** A number with few digits and a real minus. @param {number} value @param {number} [digits] */
export function num(value, digits = 3) {
  const size = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(value)));
  const shown = Math.abs(value) >= 10000 ? Math.round(value).toLocaleString("en") : value.toFixed(Math.max(0, Math.min(6, digits - 1 - Math.min(size, digits - 1))));
  return shown.replace("-", "−");
}

/**
 * Round steps between two values.
 * @param {number} low @param {number} high @param {number} most
 * @returns {number[]}
 */
export function ticks(low, high, most) {
  const raw = (high - low) / Math.max(1, most);
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * size).find((one) => one >= raw) ?? raw;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found.length < 2 && most < 12 ? ticks(low, high, most * 1.6) : found; // one number alone is no scale
}

/**
 * Days, weeks or months between two moments, as many as fit.
 * @param {number} low @param {number} high @param {number} most
 * @returns {{at: number, label: string}[]}
 */
export function dates(low, high, most) {
  const days = (high - low) / DAY;
  const found = [];
  if (days / 31 > 1.6 && days / 31 <= most * 2) {
    const every = Math.ceil(days / 31 / most);
    const start = new Date(low);
    for (let month = start.getUTCMonth(), year = start.getUTCFullYear(); ; month++) {
      const at = Date.UTC(year, month, 1);
      if (at > high) break;
      if (at >= low && month % every === 0) found.push({ at, label: MONTHS[((month % 12) + 12) % 12] + (month % 12 === 0 ? ` ${new Date(at).getUTCFullYear()}` : "") });
    }
    if (found.length > 1) return found;
    found.length = 0;
  }
  const step = [1, 2, 3, 7, 14, 28, 61, 122, 366].find((one) => days / one <= most) ?? 366;
  for (let at = Math.ceil(low / DAY) * DAY; at <= high; at += step * DAY) found.push({ at, label: dayName(at, false) });
  return found;
}
