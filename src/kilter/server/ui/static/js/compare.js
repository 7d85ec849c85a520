// The controls of curves, parallel lines, scatter and importance: what they are set to is in the address.
import { html } from "./drawn.js";
import { tick } from "./runs-state.js";

const bar = /** @type {HTMLElement | null} */ (document.querySelector("[data-curves]"));
const query = () => new URLSearchParams(location.search);

/** @param {Record<string, string>} change */
function write(change) {
  const now = query();
  for (const [name, value] of Object.entries(change)) {
    if (value) now.set(name, value);
    else now.delete(name);
  }
  history.replaceState(null, "", now.size ? `?${now}` : location.pathname);
}

const SETTINGS = ["x", "smooth", "log", "group", "spread", "from", "to"];

/** Give every picture the settings of the address. */
function apply() {
  const now = query();
  for (const picture of document.querySelectorAll("k-curves")) {
    for (const name of SETTINGS) {
      const value = now.get(name);
      if (value) {
        if (picture.getAttribute(name) !== value) picture.setAttribute(name, value);
      } else if (picture.hasAttribute(name)) picture.removeAttribute(name);
    }
  }
  const zoomed = bar?.querySelector("[data-unzoom]");
  if (zoomed instanceof HTMLElement) zoomed.hidden = !now.get("from");
}

if (bar) {
  const now = query();
  for (const field of bar.querySelectorAll("[data-set]")) {
    const input = /** @type {HTMLInputElement} */ (field);
    const name = input.dataset.set ?? "";
    if (input.type === "checkbox") input.checked = Boolean(now.get(name));
    else if (now.get(name)) input.value = now.get(name) ?? "";
    const say = () => {
      const out = bar.querySelector(`[data-said="${name}"]`);
      if (out) out.textContent = Number(input.value) ? Number(input.value).toFixed(2) : "off";
    };
    const take = () => {
      say();
      const value = input.type === "checkbox" ? (input.checked ? "1" : "") : input.type === "range" && !Number(input.value) ? "" : input.value;
      write(name === "x" ? { x: value === "step" ? "" : value, from: "", to: "" } : { [name]: value });
      apply();
    };
    input.addEventListener(input.type === "range" ? "input" : "change", take);
    say();
  }
  bar.querySelector("[data-unzoom]")?.addEventListener("click", () => (write({ from: "", to: "" }), apply()));
  document.addEventListener("curves:zoom", (event) => {
    const range = /** @type {CustomEvent} */ (event).detail;
    write(range ? { from: String(Number(range[0].toPrecision(12))), to: String(Number(range[1].toPrecision(12))) } : { from: "", to: "" });
    apply();
  });
  apply();
}

// ------------------------------------------------------------ a comparison's other pictures

const source = document.getElementById("compared");
const found = source ? JSON.parse(source.getAttribute("data-found") ?? "null") : null;

/** @param {string} key @returns {any[]} */
function values(key) {
  const [kind, ...rest] = key.split(".");
  const name = rest.join(".");
  if (kind === "metrics") return found.numbers[name] ?? found.runs.map(() => null);
  const given = found.given.map((/** @type {any} */ one) => one[name] ?? null);
  const numbers = given.map((/** @type {any} */ one) => (one === null || typeof one === "boolean" || one === "" ? one : Number(one)));
  const all = given.every((/** @type {any} */ one, /** @type {number} */ at) => one === null || (typeof one !== "boolean" && Number.isFinite(numbers[at])));
  return all ? numbers : given.map((/** @type {any} */ one) => (one === null ? null : typeof one === "string" ? one : JSON.stringify(one)));
}

/** @param {string} key */
const axis = (key) => ({ key, name: key.slice(key.indexOf(".") + 1), metric: key.startsWith("metrics."), values: values(key) });

function parallel() {
  const picture = document.querySelector("k-parallel");
  const goal = /** @type {HTMLSelectElement | null} */ (document.querySelector('[data-pick="goal"]'));
  if (!picture || !goal) return;
  const params = found.params.filter((/** @type {any} */ one) => one.differs).slice(0, 9).map((/** @type {any} */ one) => axis(`params.${one.name}`));
  const axes = [...params, ...(goal.value ? [axis(`metrics.${goal.value}`)] : [])];
  picture.setAttribute("data", JSON.stringify({ runs: found.runs, axes }));
}

function scatter() {
  const picture = document.querySelector("k-scatter");
  const [x, y] = ["sx", "sy"].map((name) => /** @type {HTMLSelectElement | null} */ (document.querySelector(`[data-pick="${name}"]`))?.value ?? "");
  if (picture && x && y) picture.setAttribute("data", JSON.stringify({ runs: found.runs, x: axis(x), y: axis(y) }));
}

async function importance() {
  const place = document.getElementById("importance");
  const goal = /** @type {HTMLSelectElement | null} */ (document.querySelector('[data-pick="goal"]'))?.value;
  if (!place || !goal) return;
  const wanted = new URLSearchParams(place.dataset.query);
  wanted.set("metric", goal);
  const answer = await fetch(`/compare/importance.json?${wanted}`);
  const body = await answer.json();
  if (!answer.ok) return place.replaceChildren(html("p", { class: "empty" }, body.detail ?? "It did not work."));
  if (!body.found.length) return place.replaceChildren(html("p", { class: "empty" }, "It takes four runs with the metric, and a param that differs between them."));
  const rows = body.found.slice(0, 20).map((/** @type {any} */ one) => {
    const line = html("tr", {}, html("th", { scope: "row" }, one.param));
    const fill = html("i", { class: one.sign < 0 ? "down" : one.sign > 0 ? "up" : "word" });
    fill.style.width = `${Math.round(100 * one.strength)}%`;
    line.append(html("td", {}, html("span", { class: "weight" }, fill)), html("td", { class: "num" }, `${one.sign < 0 ? "−" : one.sign > 0 ? "+" : ""}${one.strength.toFixed(2)}`), html("td", { class: "num" }, one.p < 0.0015 ? "< 0.002" : tick(one.p, 2)), html("td", { class: "num" }, String(one.runs)));
    return line;
  });
  const head = html("tr", {}, html("th", {}, "Param"), html("th", {}, `Goes with ${goal}`), html("th", { class: "num" }, ""), html("th", { class: "num" }, "p"), html("th", { class: "num" }, "Runs"));
  place.replaceChildren(html("table", { class: "answers weights" }, html("thead", {}, head), html("tbody", {}, ...rows)), html("p", { class: "hint" }, body.method));
}

if (found) {
  const now = query();
  for (const field of document.querySelectorAll("[data-pick]")) {
    const input = /** @type {HTMLSelectElement} */ (field);
    const name = input.dataset.pick ?? "";
    const kept = now.get(name);
    if (kept && [...input.options].some((one) => one.value === kept)) input.value = kept;
    input.addEventListener("change", () => {
      write({ [name]: input.value });
      if (name === "goal") parallel(), importance();
      else scatter();
    });
  }
  parallel();
  scatter();
  importance();
}

// Only what differs, or everything.
const only = /** @type {HTMLInputElement | null} */ (document.querySelector("[data-only]"));
if (only) {
  const sift = () => {
    for (const one of document.querySelectorAll("[data-same]")) /** @type {HTMLElement} */ (one).hidden = only.checked;
  };
  only.checked = query().get("all") !== "1";
  only.addEventListener("change", () => (write({ all: only.checked ? "" : "1" }), sift()));
  sift();
}

// The code of two runs, and the previews of a file: asked for when they are wanted.
for (const place of document.querySelectorAll("[data-fetch]")) {
  const element = /** @type {HTMLElement} */ (place);
  const load = async () => {
    const answer = await fetch(element.dataset.fetch ?? "", { headers: { accept: "text/html" } });
    element.innerHTML = answer.ok ? await answer.text() : ""; // our own template, which escapes whatever it shows
    if (!answer.ok) element.textContent = "It can’t be shown.";
  };
  const watch = new IntersectionObserver((entries) => entries.some((one) => one.isIntersecting) && (watch.disconnect(), load()), { rootMargin: "200px" });
  watch.observe(element);
}
for (const form of document.querySelectorAll("form[data-fetches]")) {
  form.addEventListener("change", () => {
    const fields = new FormData(/** @type {HTMLFormElement} */ (form));
    const [left, right] = [String(fields.get("left")), String(fields.get("right"))];
    write({ left, right });
    const place = /** @type {HTMLElement} */ (document.getElementById(/** @type {HTMLElement} */ (form).dataset.fetches ?? ""));
    fetch(`/compare/changed?${new URLSearchParams({ left, right })}`, { headers: { accept: "text/html" } }).then(async (answer) => {
      place.innerHTML = await answer.text(); // our own template
    });
  });
}
