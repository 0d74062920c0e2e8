/* Draws the page's figures with plotly when they come into view, in the theme's colours, and the chosen rows only. */
"use strict";
(() => {
  const page = window.dtbench;
  const drawn = new Set();
  const choices = new Map(); // figure's name or its beginning → {choice: value}
  const NARROW = 600;

  /* Return a colour of the style sheet as plotly can read it. */
  function colour(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }

  function set(object, path, value) {
    const keys = path.split(".");
    const last = keys.pop();
    const inner = keys.reduce((found, key) => (found[key] = { ...found[key] }), object);
    inner[last] = value;
  }

  function translucent(hex, share) {
    const [red, green, blue] = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
    return `rgba(${red},${green},${blue},${share})`;
  }

  function chosen(name) {
    for (const [start, found] of choices) if (name.startsWith(start)) return found;
    return {};
  }

  function isShown(trace, state) {
    const meta = trace.meta ?? {};
    if (meta.row !== undefined && !page.showsRow(meta.row)) return false;
    return Object.entries(meta.when ?? {}).every(([choice, value]) => state[choice] === value);
  }

  function coloured(trace) {
    const meta = trace.meta ?? {};
    const copy = { ...trace };
    delete copy.meta;
    if (meta.row !== undefined) {
      const row = page.row(meta.row);
      const own = document.documentElement.dataset.theme === "dark" ? row.dark : row.colour;
      (meta.colour ?? []).forEach((path) => set(copy, path, path === "fillcolor" ? translucent(own, 0.12) : own));
    }
    (meta.ink ?? []).forEach((path) => set(copy, path, colour("--text")));
    (meta.accent ?? []).forEach((path) => set(copy, path, colour("--accent")));
    return copy;
  }

  function layout(spec, width) {
    const grid = colour("--grid");
    const axis = { gridcolor: grid, zerolinecolor: colour("--zero"), linecolor: grid, automargin: true };
    const own = spec.layout;
    const made = {
      ...own,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: width < NARROW ? 11 : 12.5, color: colour("--text") },
      margin: { l: 8, r: 14, t: 26, b: 46 },
      showlegend: false,
      hovermode: "closest",
      dragmode: width < NARROW ? false : "zoom", // a finger scrolls the page
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: grid, font: { color: colour("--text") }, align: "left" },
      xaxis: { ...axis, ...own.xaxis },
      yaxis: { ...axis, ...own.yaxis },
    };
    if (spec.heights) {
      const rows = Object.entries(spec.heights).filter(([label]) => page.showsRow(label));
      made.height = 96 + rows.length * Math.max(26, ...rows.map(([, height]) => height)); // all rows are equally high
    }
    return made;
  }

  function draw(canvas) {
    const name = canvas.dataset.figure;
    const spec = page.data.figures[name];
    const state = chosen(name);
    const traces = spec.data.filter((trace) => isShown(trace, state)).map(coloured);
    if (!drawn.has(canvas)) canvas.replaceChildren();
    drawn.add(canvas);
    const image = { format: "svg", filename: name };
    const removed = ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"];
    const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: removed, toImageButtonOptions: image };
    window.Plotly.react(canvas, traces, layout(spec, canvas.clientWidth), config);
  }

  function redraw() {
    drawn.forEach((canvas) => {
      if (canvas.offsetParent !== null) draw(canvas);
    });
  }

  document.querySelectorAll(".choices").forEach((group) => {
    const read = () => {
      const boxes = [...group.querySelectorAll("input")];
      const value = boxes[0].type === "radio" ? boxes.find((box) => box.checked).value : boxes[0].checked;
      choices.set(group.dataset.for, { [group.dataset.choice]: value });
    };
    group.hidden = false;
    read();
    group.addEventListener("change", () => {
      read();
      redraw();
    });
  });

  const watcher = new IntersectionObserver(
    (entries) =>
      entries
        .filter((entry) => entry.isIntersecting)
        .forEach((entry) => {
          watcher.unobserve(entry.target);
          draw(entry.target);
        }),
    { rootMargin: "400px" },
  );
  document.querySelectorAll("[data-figure]").forEach((canvas) => watcher.observe(canvas));
  page.onChange(redraw);
  document.addEventListener("dtbench:theme", redraw);
})();
