/* Tables that sort by a click on their heads, show the chosen rows and tasks, and can be copied or saved as CSV. */
"use strict";
(() => {
  const page = window.dtbench;
  const { DataTable } = window;

  DataTable.ext.search.push((settings, _text, index) => {
    const line = settings.aoData[index].nTr;
    return line.dataset.row === undefined || page.showsPlace(Number(line.dataset.row));
  });

  /* A number's first order is the best first: the highest, unless the head says otherwise. */
  function orders(table) {
    return [...table.querySelectorAll("thead th")].map((head, target) => ({
      target,
      orderSequence: head.dataset.first === "asc" ? ["asc", "desc"] : ["desc", "asc"],
    }));
  }

  const tables = [...document.querySelectorAll("table.sortable")].map((table) => {
    const tasks = [...table.querySelectorAll("thead th")].map((head) => head.dataset.task);
    const outer = table.closest(".scroll");
    const made = new DataTable(table, {
      paging: false,
      info: false,
      order: [],
      autoWidth: false,
      columnDefs: orders(table),
      language: { emptyTable: "No row.", zeroRecords: "No row is chosen." },
      layout: { topStart: null, topEnd: null, bottomEnd: null, bottomStart: { buttons: ["copyHtml5", "csvHtml5"] } },
    });
    // The table scrolls, and the buttons below it stay.
    const inner = table.closest(".dt-layout-table");
    if (outer && inner) {
      for (const name of ["tabindex", "role", "aria-label"]) {
        inner.setAttribute(name, outer.getAttribute(name));
        outer.removeAttribute(name);
      }
      outer.classList.replace("scroll", "scroller");
      inner.classList.add("scroll");
    }
    return { made, tasks };
  });

  page.onChange(() =>
    tables.forEach(({ made, tasks }) => {
      tasks.forEach((task, column) => {
        if (task !== undefined) made.column(column).visible(page.showsTask(Number(task)), false);
      });
      made.draw();
    }),
  );
})();
