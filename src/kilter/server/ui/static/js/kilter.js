// What the pages are made of: small elements, each drawing one thing from the JSON in its `data` attribute.
import "./k-clock.js";
import "./k-heat.js";
import "./k-hist.js";
import "./k-lines.js";
import "./k-live.js";
import "./k-loop.js";
import "./k-minutes.js";
import "./k-traffic.js";
import "./k-runs.js";
import "./k-curves.js";
import "./k-parallel.js";
import "./k-scatter.js";
import "./compare.js";
import "./ask.js";
import "./try.js";
import "./tracking.js";

document.getElementById("theme")?.addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("kilter-theme", root.dataset.theme);
  document.dispatchEvent(new CustomEvent("kilter:theme"));
});
