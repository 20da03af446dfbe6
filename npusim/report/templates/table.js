"use strict";
const FIRST = 25;
const table = document.getElementById("ops");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const filter = document.getElementById("filter");
const single = document.getElementById("single");
const all = document.getElementById("all");
const shown = document.getElementById("shown");
let whole = false;

function show() {
  const wanted = filter.value.toLowerCase();
  const left = single && single.checked ? "kind" : "part";
  const text = row => (row.cells[0].title + " " + row.textContent).toLowerCase();
  let found = 0;
  for (const row of body.rows) {
    const fits = row.className !== left && text(row).includes(wanted);
    found += fits;
    row.hidden = !fits || (!whole && found > FIRST);
  }
  const visible = whole ? found : Math.min(found, FIRST);
  const unit = single && !single.checked ? "kinds of operators" : "operators";
  shown.textContent = `${visible} of ${found} ${unit} shown` +
    (single && !single.checked ? "; (x12) stands for 12 that do the same" : "");
  all.hidden = found <= FIRST;
  all.textContent = whole ? `Show ${FIRST}` : `Show all ${found}`;
}

heads.forEach((head, column) => head.addEventListener("click", () => {
  const numeric = head.classList.contains("num");
  const down = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numeric;
  const key = row => numeric ? Number(row.cells[column].dataset.v) : row.cells[column].textContent;
  const order = (a, b) => numeric ? key(a) - key(b) : key(a).localeCompare(key(b), undefined, { numeric: true });
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)));
  show();
}));
filter.addEventListener("input", show);
all.addEventListener("click", () => { whole = !whole; show(); });
if (single) single.addEventListener("change", show);
show();
