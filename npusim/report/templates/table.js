"use strict";
const table = document.getElementById("ops");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];

heads.forEach((head, column) => head.addEventListener("click", () => {
  const numeric = head.classList.contains("num");
  const down = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numeric;
  const key = row => numeric ? Number(row.cells[column].dataset.v) : row.cells[column].textContent;
  const order = (a, b) => numeric ? key(a) - key(b) : key(a).localeCompare(key(b), undefined, { numeric: true });
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)));
}));

document.getElementById("filter").addEventListener("input", event => {
  const wanted = event.target.value.toLowerCase();
  const text = row => (row.cells[0].title + " " + row.textContent).toLowerCase();
  for (const row of body.rows) row.hidden = !text(row).includes(wanted);
});
