// Finds, narrows and sorts the cards that are on the page; "/" goes to the search.
(() => {
  const form = document.querySelector("form"), main = document.querySelector("main");
  const cards = [...main.children], numeric = new Set(["psnr", "tokens", "seconds"]);
  const falling = new Set(["made", "psnr"]);
  const key = (card, by) => (numeric.has(by) ? Number(card.dataset[by] ?? "NaN") : card.dataset[by] ?? "");
  const compare = (by) => (a, b) => {
    const x = key(a, by), y = key(b, by), order = falling.has(by) ? -1 : 1;
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // what has no number comes last
    return order * (numeric.has(by) ? x - y : x.localeCompare(y, undefined, { numeric: true }));
  };
  const update = () => {
    const words = form.find.value.toLowerCase().split(/\s+/).filter(Boolean);
    cards.sort(compare(form.sort.value)).forEach((card) => main.append(card));
    cards.forEach((card) => {
      const text = card.textContent.toLowerCase();
      const other = form.template.value && card.dataset.template !== form.template.value;
      card.hidden = other || !words.every((word) => text.includes(word));
    });
    const shown = cards.filter((card) => !card.hidden).length;
    form.querySelector("output").textContent = shown === cards.length ? `${shown} reports` : `${shown} of ${cards.length} reports`;
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select")) return;
    event.preventDefault();
    form.find.focus();
  });
  update();
})();
