/** What every page has: light or dark, and the help. */
const root = document.documentElement;

function setTheme(theme) {
  root.dataset.theme = theme;
  const button = document.querySelector("#theme");
  if (button) button.textContent = theme === "dark" ? "Light" : "Dark";
}

function toggleTheme() {
  setTheme(root.dataset.theme === "dark" ? "light" : "dark");
}

function openHelp() {
  document.querySelector("#help").showModal();
}

setTheme(matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
document.querySelector("#theme").addEventListener("click", toggleTheme);
document.querySelector("#show-help").addEventListener("click", openHelp);
document.querySelector("#help button").addEventListener("click", () => document.querySelector("#help").close());
