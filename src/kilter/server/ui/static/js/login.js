// The way in and the account: what is sent is JSON, as every operation takes it.
const send = (/** @type {string} */ path, /** @type {object} */ body) =>
  fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

const login = /** @type {HTMLFormElement | null} */ (document.getElementById("login"));
login?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = /** @type {HTMLElement} */ (document.getElementById("login-problem"));
  problem.textContent = "";
  try {
    const answer = await send("/login/token", { token: /** @type {HTMLInputElement} */ (login.elements.namedItem("token")).value });
    if (answer.ok) location.assign(login.dataset.next ?? "/");
    else problem.textContent = (await answer.json()).detail ?? "That did not work.";
  } catch {
    problem.textContent = "The server can’t be reached.";
  }
});

const made = /** @type {HTMLFormElement | null} */ (document.getElementById("new-token"));
made?.addEventListener("submit", async (event) => {
  event.preventDefault();
  // The token is made here: only its digest leaves this page.
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  const token = `kp_${btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}`;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(token)));
  const digest = [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const label = /** @type {HTMLInputElement} */ (made.elements.namedItem("label")).value;
  const answer = await send("/api/v1/people/token", { digest, label });
  const shown = /** @type {HTMLElement} */ (document.getElementById("made"));
  shown.hidden = false;
  shown.textContent = answer.ok ? `${token} (this is the only time it is shown)` : ((await answer.json()).detail ?? "That did not work.");
});

document.addEventListener("click", async (event) => {
  const button = event.target instanceof Element ? event.target.closest("button") : null;
  if (button?.dataset.revoke && (await send("/api/v1/people/revoke", { token: Number(button.dataset.revoke) })).ok) location.reload();
  if (button?.id === "out" && (await send("/login/out", {})).ok) location.assign("/login");
});
