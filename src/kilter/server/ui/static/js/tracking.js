// What the pages of tracking share: the help, notes, links of MLflow's clients, and lists that can be searched.
import { send } from "./runs-bulk.js";

// MLflow's clients print /#/experiments/1/runs/ID: what stands behind the # never reaches the server.
const forward = () => {
  const found = /^#\/experiments\/(\d+)(?:\/(?:runs|models)\/([\w.-]+))?/.exec(location.hash) ?? /^#\/(models)\/([^/]+)(?:\/versions\/(\d+))?/.exec(location.hash);
  if (!found) return;
  if (found[1] === "models") location.replace(`/models/${found[2]}${found[3] ? `/${found[3]}` : ""}`);
  else location.replace(found[2] && !location.hash.includes("/models/") ? `/runs/${encodeURIComponent(found[2])}` : `/experiments/~${found[1]}`);
};
forward();
addEventListener("hashchange", forward);

const help = /** @type {HTMLDialogElement | null} */ (document.getElementById("keys"));
document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input:not([type=checkbox], [type=range]), select, textarea")) return;
  if (event.key === "?" && help) {
    event.preventDefault();
    if (help.open) help.close();
    else help.showModal();
  }
  if (event.key === "/" && !document.querySelector("k-runs, dialog[open]")) {
    const field = /** @type {HTMLElement | null} */ (document.querySelector("[data-search], input[type=search]"));
    if (!field) return;
    event.preventDefault();
    field.focus();
  }
});
document.querySelector("[data-help]")?.addEventListener("click", () => help?.showModal());

const note = /** @type {HTMLDialogElement | null} */ (document.getElementById("note"));
document.querySelector("[data-note]")?.addEventListener("click", () => note?.showModal());
note?.querySelector("form")?.addEventListener("submit", async (event) => {
  if (/** @type {any} */ (event).submitter?.value !== "yes") return;
  event.preventDefault();
  const text = /** @type {HTMLTextAreaElement} */ (note.querySelector("textarea")).value;
  const said = note.dataset.field ? { [note.dataset.field]: text } : { tags: { "mlflow.note.content": text } };
  const problem = await send(note.dataset.verb ?? "", { ...JSON.parse(note.dataset.body ?? "{}"), ...said });
  const place = note.querySelector(".problem");
  if (problem && place) place.textContent = problem;
  else location.reload();
});

// A list is searched as one types, and what was typed is in the address.
for (const field of document.querySelectorAll("[data-search]")) {
  if (!(field instanceof HTMLInputElement)) continue;
  const name = field.dataset.search ?? "";
  const query = new URLSearchParams(location.search);
  const sift = () => {
    const wanted = field.value.trim().toLowerCase();
    for (const one of document.querySelectorAll(`[data-in="${CSS.escape(name)}"]`)) {
      /** @type {HTMLElement} */ (one).hidden = !(/** @type {HTMLElement} */ (one).dataset.text ?? one.textContent ?? "").toLowerCase().includes(wanted);
    }
    const now = new URLSearchParams(location.search);
    if (field.value) now.set(`q-${name}`, field.value);
    else now.delete(`q-${name}`);
    history.replaceState(null, "", now.size ? `?${now}` : location.pathname);
  };
  field.value = query.get(`q-${name}`) ?? "";
  field.addEventListener("input", sift);
  document.addEventListener("htmx:after:swap", sift);
  if (field.value) sift();
}

// Lines that can be walked through with j and k.
const walked = () => /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-walk]")]).filter((one) => !one.closest("[hidden]"));
document.addEventListener("keydown", (event) => {
  if (!["j", "k"].includes(event.key) || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("k-runs, dialog[open]")) return;
  if (/** @type {HTMLElement} */ (event.target).closest("input, select, textarea")) return;
  const lines = walked();
  const now = lines.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  lines[Math.max(0, Math.min(lines.length - 1, now + (event.key === "j" ? 1 : -1)))]?.focus();
});
