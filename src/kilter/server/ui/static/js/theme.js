// Runs before the first paint, so that a chosen theme doesn't flash.
(() => {
  const kept = localStorage.getItem("kilter-theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  document.documentElement.dataset.theme = kept ?? (dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => {
    if (!localStorage.getItem("kilter-theme")) document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
  });
})();
