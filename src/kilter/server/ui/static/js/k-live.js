// One stream of events keeps the page up to date: it asks which parts have changed and fetches only those.
//
// Days and rows are recorded without an event, so the pulse is also asked for once per second while the page is seen;
// this is the way on, too, where a proxy cuts streams.

const SOONEST = 300;
const BEAT = 1000;

class Live extends HTMLElement {
  /** @type {Record<string, string>} */ parts = {};
  /** @type {EventSource | null} */ #source = null;
  #timer = 0;
  #last = 0;
  #asking = false;
  #again = false;
  #seen = () => this.#wake();

  connectedCallback() {
    this.loop = this.getAttribute("loop") ?? "";
    document.addEventListener("visibilitychange", this.#seen);
    this.#wake();
  }

  disconnectedCallback() {
    document.removeEventListener("visibilitychange", this.#seen);
    this.#sleep();
  }

  #sleep() {
    this.#source?.close();
    this.#source = null;
    clearTimeout(this.#timer);
  }

  #wake() {
    this.#sleep();
    if (document.hidden) return;
    this.#source = new EventSource(`/events?subject=${encodeURIComponent(this.loop)}&after=new`);
    this.#source.onopen = () => this.setAttribute("state", "live");
    this.#source.onerror = () => this.setAttribute("state", "lost");
    for (const kind of KINDS) this.#source.addEventListener(kind, () => this.pulse());
    this.pulse();
  }

  /** Ask what has changed, soon but not more often than a few times per second. */
  pulse() {
    clearTimeout(this.#timer);
    if (this.#asking) {
      this.#again = true;
      return;
    }
    this.#timer = window.setTimeout(() => this.#ask(), Math.max(0, this.#last + SOONEST - performance.now()));
  }

  async #ask() {
    this.#asking = true;
    this.#again = false;
    this.#last = performance.now();
    try {
      const answer = await fetch(this.getAttribute("pulse") ?? `/loops/${encodeURIComponent(this.loop)}/pulse`, { signal: AbortSignal.timeout(8000) });
      if (answer.ok) this.#take(await answer.json());
    } catch {
      this.setAttribute("state", "lost");
    }
    this.#asking = false;
    clearTimeout(this.#timer);
    if (this.#again) this.pulse();
    else if (!document.hidden) this.#timer = window.setTimeout(() => this.#ask(), BEAT);
  }

  /** @param {{now: string, parts: Record<string, string>}} found */
  #take(found) {
    /** @type {any} */ (document.querySelector("k-clock"))?.set(found.now);
    if (this.getAttribute("state") === "lost" && this.#source?.readyState === EventSource.OPEN) this.setAttribute("state", "live");
    for (const [name, digest] of Object.entries(found.parts)) {
      const known = this.parts[name] ?? document.getElementById(`part-${name}`)?.dataset.digest;
      this.parts[name] = digest;
      if (known === digest) continue;
      const part = document.getElementById(`part-${name}`);
      if (part && !part.querySelector("[data-older]")) part.dispatchEvent(new CustomEvent("kilter:refresh"));
    }
  }
}

const KINDS = [
  "Applied", "AlarmRaised", "AlarmCleared", "TrainingFinished", "TrainingFailed", "GatesJudged", "TrafficSet", "ShadowJudged",
  "CanaryJudged", "ActionFailed", "PauseRequested", "ResumeRequested", "RetrainRequested", "RollbackRequested",
  "PromoteRequested", "Approved", "FreezeRequested", "UnfreezeRequested", "Deployed", "ExperimentStarted", "ExperimentStopped", "StartTraining", "SetTraffic", "Promote", "RollBack", "Mark", "Notify",
];

customElements.define("k-live", Live);
