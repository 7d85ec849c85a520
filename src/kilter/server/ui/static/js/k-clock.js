// The store's clock. A simulated one may jump days between two looks, so it is shown moving from one to the next.
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (/** @type {number} */ value) => String(value).padStart(2, "0");

class Clock extends HTMLElement {
  from = 0;
  to = 0;
  seen = 0;
  span = 1000;
  #timer = 0;

  connectedCallback() {
    this.time = this.querySelector("time");
    this.from = this.to = Date.parse(this.getAttribute("now") ?? "");
    this.seen = performance.now();
    this.#timer = window.setInterval(() => this.show(), 100);
  }

  disconnectedCallback() {
    clearInterval(this.#timer);
  }

  /** @param {string} now What the server's clock says now. */
  set(now) {
    const at = Date.parse(now);
    const moment = performance.now();
    this.from = this.at();
    this.span = Math.min(3000, Math.max(200, moment - this.seen));
    this.to = at;
    this.seen = moment;
  }

  at() {
    const gone = performance.now() - this.seen;
    if (!this.hasAttribute("simulated")) return this.to + gone;
    return this.from + (this.to - this.from) * Math.min(1, gone / this.span);
  }

  show() {
    const at = new Date(this.at());
    const text = `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}, ${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
    if (this.time && this.time.textContent !== text) this.time.textContent = text;
  }
}

customElements.define("k-clock", Clock);
