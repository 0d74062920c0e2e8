/* What a page shows: its data, and which rows and tasks the reader has chosen. Tables and figures ask here. */
"use strict";
window.dtbench = (() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const listeners = [];
  const form = document.getElementById("filters");
  const rows = new Set(data.rows.keys());
  const tasks = new Set();

  function boxes(name) {
    return form ? [...form.querySelectorAll(`input[name="${name}"]`)] : [];
  }

  function read() {
    const text = document.getElementById("filter-name").value.trim().toLowerCase();
    const model = document.getElementById("filter-model").value;
    const backbone = document.getElementById("filter-backbone").value;
    const checked = new Set(boxes("row").filter((box) => box.checked).map((box) => Number(box.value)));
    rows.clear();
    data.rows.forEach((row, place) => {
      const fits =
        row.label.toLowerCase().includes(text) &&
        (!model || row.model === model) &&
        (!backbone || row.backbone === backbone);
      if (fits && checked.has(place)) rows.add(place);
    });
    tasks.clear();
    boxes("task").filter((box) => box.checked).forEach((box) => tasks.add(Number(box.value)));
  }

  function apply() {
    read();
    const all = rows.size === data.rows.length && tasks.size === boxes("task").length;
    const text = `${rows.size} of ${data.rows.length} rows, ${tasks.size} of ${boxes("task").length} tasks`;
    document.getElementById("filter-count").textContent = all ? "" : `Shown: ${text}.`;
    document.querySelectorAll(".panel[data-task]").forEach((panel) => {
      panel.hidden = !tasks.has(Number(panel.dataset.task));
    });
    document.querySelectorAll(".legend [data-row]").forEach((entry) => {
      entry.hidden = !rows.has(Number(entry.dataset.row));
    });
    listeners.forEach((listener) => listener());
  }

  if (form) {
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", apply);
    form.addEventListener("reset", () => window.setTimeout(apply));
    boxes("task").forEach((box) => tasks.add(Number(box.value)));
  }
  const places = new Map(data.rows.map((row, place) => [row.label, place]));
  return {
    data,
    apply,
    onChange: (listener) => listeners.push(listener),
    showsPlace: (place) => rows.has(place),
    showsRow: (label) => rows.has(places.get(label)),
    showsTask: (place) => tasks.has(place),
    row: (label) => data.rows[places.get(label)],
  };
})();
