// A click on a header sorts its table; a cell of the confusion matrix is explained in words; buttons switch pictures.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("th").forEach(h => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)], [p, q] = [parseFloat(x), parseFloat(y)];
        if (isNaN(p) !== isNaN(q)) return isNaN(p) ? 1 : -1;  // classes without a score stay at the end
        return (isNaN(p) ? x.localeCompare(y) : p - q) * (down && !isNaN(p) ? -1 : 1);
      });
      table.tBodies[0].append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", e => { if (e.key === "Enter") sort(); });
  });
}
const explained = document.getElementById("cell");
for (const cell of document.querySelectorAll("table.confusion td")) {
  for (const event of ["mouseenter", "click"]) cell.addEventListener(event, () => { explained.textContent = cell.title; });
}
const buttons = document.querySelectorAll("button[data-kind]");
for (const button of buttons) {  // pictures without a kind always show
  button.addEventListener("click", () => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    for (const image of document.querySelectorAll(".cases img[data-kind]")) image.hidden = image.dataset.kind !== button.dataset.kind;
  });
}
