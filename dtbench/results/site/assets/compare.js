/* Two rows beside each other; everything was computed beforehand, and is looked up here. */
"use strict";
(() => {
  const page = window.dtbench;
  const form = document.getElementById("compare-form");
  if (!form) return;
  const [first, second] = [document.getElementById("compare-a"), document.getElementById("compare-b")];
  const result = document.getElementById("compare-result");

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    made.textContent = text;
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    return made;
  }

  function sentences(a, b, found) {
    if (found.probability === undefined) {
      return [element("p", "No seed has all tasks that both rows have, so that there is no test over tasks.")];
    }
    const said = found.separable
      ? "By their means over seeds, the two can be told apart."
      : "By their means over seeds, the two cannot be told apart.";
    const number = element("p", `P(${a} > ${b}) = ${found.probability}`, { class: "big" });
    return [number, element("p", `Permutation p of the means' difference: ${found.p}. ${said}`)];
  }

  function table(a, b, found) {
    const made = element("table", "");
    made.append(element("caption", "Scores × 100, task by task", { class: "hidden" }));
    const head = made.createTHead().insertRow();
    head.append(element("th", "task", { scope: "col" }));
    [a, b, "difference", "p"].forEach((text) => head.append(element("th", text, { scope: "col", class: "num" })));
    const body = made.createTBody();
    found.tasks.forEach(([task, ...numbers]) => {
      const line = body.insertRow();
      line.append(element("th", task, { scope: "row" }));
      numbers.forEach((text) => line.append(element("td", text, { class: "num" })));
    });
    const outer = element("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Comparison" });
    outer.append(made);
    return outer;
  }

  function show() {
    const [one, other] = [Number(first.value), Number(second.value)].sort((x, y) => x - y);
    if (one === other) {
      result.replaceChildren(element("p", "Choose two different rows."));
      return;
    }
    const found = page.data.pairs[`${one},${other}`];
    const [a, b] = [page.data.rows[one].label, page.data.rows[other].label];
    if (found === undefined) {
      result.replaceChildren(element("p", `${a} and ${b} have no task in common.`));
      return;
    }
    result.replaceChildren(...sentences(a, b, found), table(a, b, found));
  }

  form.hidden = false;
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
})();
