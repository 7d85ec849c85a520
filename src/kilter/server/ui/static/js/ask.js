// Pause, resume, freeze, roll back, promote: asked in a dialog, sent as the JSON that the operation takes.
const dialog = /** @type {HTMLDialogElement | null} */ (document.getElementById("ask"));
const field = (/** @type {string} */ name) => /** @type {HTMLElement} */ (document.getElementById(`ask-${name}`));

/** @type {{verb: string, body: Record<string, unknown>} | null} */
let asked = null;

document.addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("[data-act]") : null;
  if (!(button instanceof HTMLElement) || !dialog) return;
  asked = { verb: button.dataset.act ?? "", body: JSON.parse(button.dataset.body ?? "{}") };
  field("title").textContent = button.dataset.title ?? "";
  field("text").textContent = button.dataset.text ?? "";
  field("problem").textContent = "";
  field("yes").textContent = button.textContent?.trim() ?? "Do it";
  field("reason-label").hidden = !["pause", "rollback", "freeze"].includes(asked.verb);
  /** @type {HTMLInputElement} */ (field("reason")).value = "";
  dialog.showModal();
});

field("yes")?.addEventListener("click", async (event) => {
  event.preventDefault();
  if (!asked || !dialog) return;
  const reason = /** @type {HTMLInputElement} */ (field("reason")).value.trim();
  const body = { ...asked.body, by: "the page", ...(reason ? { reason } : {}) };
  try {
    const answer = await fetch(`/api/v1/loops/${asked.verb}`, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": crypto.randomUUID() },
      body: JSON.stringify(body),
    });
    if (answer.ok) {
      dialog.close();
      /** @type {any} */ (document.querySelector("k-live"))?.pulse();
    } else {
      const problem = await answer.json();
      field("problem").textContent = problem.detail ?? problem.title ?? "It did not work.";
    }
  } catch {
    field("problem").textContent = "The server can’t be reached.";
  }
});
