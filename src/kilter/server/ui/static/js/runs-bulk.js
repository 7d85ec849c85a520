// What is done with the selected runs: compared, tagged, put away, brought back. It goes to the operations, one run at a time.

const SIDE_BY_SIDE = 4;
const MOST = 5000;

/** Send to an operation. @param {string} verb @param {Record<string, unknown>} body */
export async function send(verb, body) {
  try {
    const answer = await fetch(`/api/v1/${verb}`, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": crypto.randomUUID() },
      body: JSON.stringify(body),
    });
    if (answer.ok) return "";
    const problem = await answer.json();
    return `${problem.detail ?? problem.title ?? "It did not work"}`;
  } catch {
    return "The server can’t be reached.";
  }
}

/** @param {any} table */
export function bulk(table) {
  const bar = table.find("bulk");
  const chosen = () => [...table.state.select];
  const draw = () => {
    const count = table.state.select.size;
    bar.toggleAttribute("inert", !count);
    bar.classList.toggle("on", count > 0);
    table.find("selected").textContent = count === 1 ? "1 selected" : `${count.toLocaleString("en")} selected`;
    table.find("restore").hidden = table.state.view === "alive";
    table.find("delete").hidden = table.state.view === "deleted";
  };
  table.addEventListener("runs:selected", draw);
  table.addEventListener("runs:drawn", draw);

  table.addEventListener("runs:all", async () => {
    const box = table.querySelector("[data-all]");
    table.state.select.clear();
    if (box.checked) {
      for (let offset = 0; offset < MOST; offset += 500) {
        const query = new URLSearchParams({ filter: table.state.filter, view: table.state.view, offset: String(offset), limit: "500" });
        const found = await (await fetch(`${table.data.path}/rows.json?${query}`)).json();
        for (const row of found.rows) table.state.select.add(row.id);
        if (offset + 500 >= found.total) break;
      }
    }
    table.selected();
  });

  table.find("compare").addEventListener("click", () => {
    const runs = chosen();
    if (runs.length && runs.length <= 60) return location.assign(`/compare?runs=${runs.map(encodeURIComponent).join(",")}`);
    const query = new URLSearchParams({ experiment: table.data.name });
    if (table.state.filter) query.set("filter", table.state.filter);
    location.assign(`/compare?${query}`);
  });
  table.find("baseline").addEventListener("click", () => table.change({ base: chosen()[0] ?? "" }));
  table.find("clear").addEventListener("click", () => (table.state.select.clear(), table.selected()));

  /** @param {string} verb @param {Record<string, unknown>} more @param {string} done */
  const each = async (verb, more, done) => {
    const left = chosen();
    const total = left.length;
    let finished = 0;
    let problem = "";
    const status = table.find("status");
    await Promise.all(
      Array.from({ length: SIDE_BY_SIDE }, async () => {
        for (let run = left.pop(); run && !problem; run = left.pop()) {
          problem ||= await send(`runs/${verb}`, { run, ...more });
          finished += 1;
          status.textContent = `${finished} of ${total} …`;
        }
      }),
    );
    status.textContent = problem || `${total} run${total === 1 ? "" : "s"} ${done}.`;
    if (!problem && verb !== "log_tags") table.state.select.clear();
    table.selected();
    table.begin(null);
  };

  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("bulk-ask"));
  const field = (/** @type {string} */ name) => /** @type {any} */ (dialog.querySelector(`[data-ask="${name}"]`));
  /** @type {(() => unknown) | null} */ let act = null;
  /** @param {string} title @param {string} text @param {boolean} tagging @param {() => unknown} what */
  const ask = (title, text, tagging, what) => {
    field("title").textContent = title;
    field("text").textContent = text;
    for (const one of dialog.querySelectorAll("[data-tagging]")) /** @type {HTMLElement} */ (one).hidden = !tagging;
    act = what;
    dialog.showModal();
  };
  const few = () => `${table.state.select.size} run${table.state.select.size === 1 ? "" : "s"}`;
  table.find("tag").addEventListener("click", () => ask(`Tag ${few()}`, "The newest word counts.", true, () => each("log_tags", { tags: { [field("name").value.trim()]: field("value").value } }, "tagged")));
  table.find("delete").addEventListener("click", () => ask(`Delete ${few()}?`, "They are put away, not lost: show deleted runs to bring them back.", false, () => each("delete", {}, "deleted")));
  table.find("restore").addEventListener("click", () => ask(`Restore ${few()}?`, "They come back as they were.", false, () => each("restore", {}, "restored")));
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "yes" && act) act();
    act = null;
    dialog.returnValue = "";
  });
  draw();
}

