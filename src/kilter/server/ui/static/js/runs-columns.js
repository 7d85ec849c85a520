// The panel in which columns are chosen, put in order and pinned.
import { html } from "./drawn.js";
import { titleOf } from "./runs-state.js";

const MOST = 150;

/** @param {any} table */
export function columnPanel(table) {
  const panel = table.find("columns-panel");
  const search = table.find("columns-search");
  const names = table.data.names;
  /** @type {[string, string][]} */ const known = [
    ["started", ""], ["ended", ""], ["duration", ""], ["status", ""],
    ...["metrics", "params", "tags"].flatMap((kind) => names[kind].map((/** @type {any} */ one) => [`${kind}.${one.name}`, `${one.runs}`])),
  ];

  const draw = () => {
    const { columns, pin } = table.state;
    table.find("columns-shown").replaceChildren(
      ...columns.map((/** @type {string} */ column, /** @type {number} */ at) => {
        const button = (/** @type {string} */ label, /** @type {string} */ said, /** @type {() => void} */ act, /** @type {boolean} */ off) => {
          const made = html("button", { type: "button", class: "mini", "aria-label": `${said}: ${column}`, title: said, ...(off ? { disabled: "" } : {}) }, label);
          made.addEventListener("click", () => (act(), draw()));
          return made;
        };
        const swap = (/** @type {number} */ to) => {
          const next = [...columns];
          [next[at], next[to]] = [next[to], next[at]];
          table.change({ columns: next });
        };
        return html("li", {},
          html("span", { class: `kind ${column.split(".")[0]}` }, titleOf(column)),
          button(at < pin ? "📌" : "⇤", at < pin ? "Unpin from here on" : "Pin up to here", () => table.change({ pin: at < pin ? at : at + 1 }), false),
          button("↑", "Further left", () => swap(at - 1), at === 0),
          button("↓", "Further right", () => swap(at + 1), at === columns.length - 1),
          button("×", "Take away", () => table.change({ columns: columns.filter((/** @type {string} */ one) => one !== column), pin: Math.min(pin, columns.length - 1) }), false));
      }),
    );
    const wanted = search.value.trim().toLowerCase();
    const fits = known.filter(([column]) => column.toLowerCase().includes(wanted));
    table.find("columns-all").replaceChildren(
      ...fits.slice(0, MOST).map(([column, runs]) => {
        const box = /** @type {HTMLInputElement} */ (html("input", { type: "checkbox" }));
        box.checked = columns.includes(column);
        box.addEventListener("change", () => {
          table.change({ columns: box.checked ? [...table.state.columns, column] : table.state.columns.filter((/** @type {string} */ one) => one !== column) });
          draw();
        });
        return html("li", {}, html("label", {}, box, html("span", { class: `kind ${column.split(".")[0]}` }, titleOf(column)), html("small", {}, runs ? `${column.split(".")[0]}, ${runs}` : "")));
      }),
      ...(fits.length > MOST ? [html("li", { class: "hint" }, `${fits.length - MOST} more: type a part of the name`)] : []),
      ...(fits.length ? [] : [html("li", { class: "hint" }, "No column of that name")]),
    );
  };

  table.find("columns").addEventListener("click", () => {
    panel.hidden = !panel.hidden;
    table.find("columns").setAttribute("aria-expanded", String(!panel.hidden));
    if (panel.hidden) return;
    draw();
    search.focus();
  });
  search.addEventListener("input", draw);
  panel.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.key === "Escape" && close());
  table.find("columns-usual").addEventListener("click", () => (table.change({ columns: [...table.usual], pin: 0 }), draw()));
  const close = () => {
    panel.hidden = true;
    table.find("columns").setAttribute("aria-expanded", "false");
    table.find("columns").focus();
  };
  document.addEventListener("click", (event) => {
    const target = /** @type {Node} */ (event.target);
    if (!panel.hidden && target.isConnected && !panel.contains(target) && !table.find("columns").contains(target)) panel.hidden = true;
  });
}
