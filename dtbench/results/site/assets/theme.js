/* Light or dark: the reader's choice, else the system's. It runs before the page is drawn, so that nothing flashes. */
"use strict";
(() => {
  const KEY = "dtbench-theme";
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      const value = window.localStorage.getItem(KEY);
      return value === "dark" || value === "light" ? value : null;
    } catch {
      return null; // a browser that keeps nothing for files from a disk
    }
  }

  function keep(value) {
    try {
      window.localStorage.setItem(KEY, value);
    } catch {
      /* the choice holds for this page only */
    }
  }

  function show(theme) {
    root.dataset.theme = theme;
    root.classList.toggle("dark", theme === "dark"); // DataTables' own mark
    const button = document.getElementById("theme");
    if (button) button.setAttribute("aria-pressed", String(theme === "dark"));
    document.dispatchEvent(new Event("dtbench:theme"));
  }

  show(chosen() ?? (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => {
    if (!chosen()) show(system.matches ? "dark" : "light");
  });
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
    button.addEventListener("click", () => {
      const next = root.dataset.theme === "dark" ? "light" : "dark";
      keep(next);
      show(next);
    });
  });
})();
