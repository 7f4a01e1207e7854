// Search, filter and sort the cards of the gallery. "/" focuses the search box.
(() => {
  const form = document.querySelector("form");
  const main = document.querySelector("main");
  const count = form.querySelector("output");
  const empty = document.querySelector(".empty");
  const cards = [...main.children];
  const numericKeys = new Set(["psnr", "tokens", "seconds"]);
  const descendingKeys = new Set(["created", "psnr"]);

  const sortValue = (card, key) => {
    const value = card.dataset[key];
    return numericKeys.has(key) ? Number(value ?? "NaN") : value ?? "";
  };
  const compareBy = (key) => (first, second) => {
    const a = sortValue(first, key), b = sortValue(second, key);
    const direction = descendingKeys.has(key) ? -1 : 1;
    if (!numericKeys.has(key)) return direction * a.localeCompare(b, undefined, { numeric: true });
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // cards without a number come last
    return direction * (a - b);
  };
  const update = () => {
    const words = form.find.value.toLowerCase().split(/\s+/).filter(Boolean);
    cards.sort(compareBy(form.sort.value)).forEach((card) => main.append(card));
    cards.forEach((card) => {
      const text = card.textContent.toLowerCase();
      const hasTemplate = !form.template.value || card.dataset.template === form.template.value;
      card.hidden = !hasTemplate || !words.every((word) => text.includes(word));
    });
    const visible = cards.filter((card) => !card.hidden).length;
    const total = `${cards.length} ${cards.length === 1 ? "report" : "reports"}`;
    count.textContent = visible === cards.length ? total : `${visible} of ${total}`;
    empty.hidden = visible > 0;
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
