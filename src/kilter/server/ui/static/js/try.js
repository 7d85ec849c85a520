// The form that asks an endpoint: fields go as they were typed, and what comes back says which of them is wrong.
const form = /** @type {HTMLFormElement | null} */ (document.querySelector("form[data-try]"));
const place = document.getElementById("tried");

/** @param {string} name */
const field = (name) => [...(form?.querySelectorAll("[data-field]") ?? [])].find((one) => one instanceof HTMLElement && one.dataset.field === name);

function clear() {
  for (const one of form?.querySelectorAll(".field-error") ?? []) one.textContent = "";
  for (const one of form?.querySelectorAll("[aria-invalid]") ?? []) one.removeAttribute("aria-invalid");
}

/** Show a field's error beside it. @param {HTMLElement} answer */
function mark(answer) {
  const wrong = field(answer.dataset.where ?? "");
  const input = wrong?.querySelector("input, select");
  const said = wrong?.querySelector(".field-error");
  if (!(input instanceof HTMLElement) || !said) return;
  said.textContent = answer.dataset.allowed || answer.dataset.problem || "";
  input.setAttribute("aria-invalid", "true");
  input.focus();
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!form || !place) return;
  const part = (/** @type {string} */ name) => /** @type {any} */ (form.querySelector(`[data-${name}]`));
  /** @type {Record<string, string>} */ const row = {};
  for (const [name, value] of new FormData(form)) row[name] = String(value);
  const version = part("version").value;
  const body = { row, version: version ? Number(version) : null, explain: part("explain").checked, key: part("key").value.trim() };
  const button = /** @type {HTMLButtonElement} */ (form.querySelector("button"));
  button.disabled = true;
  clear();
  try {
    const answer = await fetch(form.dataset.try ?? "", {
      method: "POST",
      headers: { "content-type": "application/json", accept: "text/html" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(30000),
    });
    if (answer.headers.get("content-type")?.startsWith("text/html")) {
      place.innerHTML = await answer.text(); // our own template, which escapes whatever was typed
      const found = place.firstElementChild;
      if (found instanceof HTMLElement) mark(found);
    } else {
      const problem = await answer.json();
      place.textContent = problem.detail ?? problem.title ?? "It did not work.";
    }
  } catch {
    place.textContent = "The server can’t be reached.";
  }
  button.disabled = false;
});
