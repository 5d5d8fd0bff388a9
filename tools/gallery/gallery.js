// One picture large, in one place for all columns of a row: changing from one to the next shows what differs.
const large = document.body.appendChild(document.createElement("dialog"));
const picture = large.appendChild(document.createElement("img")), words = large.appendChild(document.createElement("p"));
let figures = [], place = 0;
const turn = step => {
  place = (place + step + figures.length) % figures.length;
  const seen = figures[place].querySelector("img:not([hidden])");
  picture.src = seen.src;
  picture.alt = seen.alt;
  words.textContent = figures[place].querySelector("figcaption").textContent;
};
for (const row of document.querySelectorAll(".gallery")) {
  row.addEventListener("click", e => {
    if (e.target.tagName !== "IMG") return;
    figures = [...row.querySelectorAll("figure")];
    place = figures.indexOf(e.target.closest("figure"));
    turn(0);
    large.showModal();
  });
}
picture.addEventListener("click", e => turn(e.offsetX < picture.clientWidth / 2 ? -1 : 1));
large.addEventListener("click", e => { if (e.target === large || e.target === words) large.close(); });
large.addEventListener("keydown", e => {
  if (e.key === "ArrowRight" || e.key === "ArrowLeft") turn(e.key === "ArrowRight" ? 1 : -1);
});
