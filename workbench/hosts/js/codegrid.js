// A codebook as a grid: one cell per code, brighter if it is used more, crossed out if it is never
// used; hovering shows images that contain it.
// data: { n, codes, counts, examples, marks, each, total, size, grid, caption, held,
//         thumbs: { sheet, columns, size: [h, w] } }
//   Arrays are base64 of int32. codes and counts (n); examples and marks (n x each): the thumbnail
//   and the token of images that contain a code, -1 where there are fewer. size is the number of
//   codes per codebook; grid the rows and columns of the tokens, or null. held exists without a
//   kernel: { tokens, images, codes }, int32 images (m), and uint16 cells of their codes
//   (m x tokens).
// view: { selected: [codes], sort: "number" | "use", within: { counts, label } | null }
//   within: with Python, the counts (n) of each cell in images that were selected in another view.

const STYLE = `
.wb-codes { font: 13px var(--wb-font, system-ui, sans-serif); color: inherit; max-width: 1280px; outline: none; padding: 4px; }
.wb-codes:focus-visible { outline: 2px solid #0072B2; outline-offset: 2px; border-radius: 4px; }
.wb-codes .bar { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; margin-bottom: 6px; }
.wb-codes button { font: inherit; color: var(--wb-accent, inherit); background: none; border: 1px solid var(--wb-accent, #888a); border-radius: 4px;
  padding: 2px 8px; cursor: pointer; }
.wb-codes button[aria-pressed=true] { background: #0072B2; border-color: #0072B2; color: white; }
.wb-codes .both { display: flex; flex-wrap: wrap; gap: 12px; }
.wb-codes .cells { flex: 1 1 300px; min-width: 0; max-height: var(--wb-height); overflow-y: auto; }
.wb-codes .cells canvas { display: block; cursor: pointer; }
.wb-codes .side { flex: 0 1 300px; max-height: var(--wb-height); overflow-y: auto; }
.wb-codes .thumbs { display: flex; flex-wrap: wrap; gap: 3px; margin: 2px 0 8px; }
.wb-codes .thumbs canvas { image-rendering: pixelated; }
.wb-codes .ramp { display: inline-block; width: 120px; height: 10px; border-radius: 3px; vertical-align: middle; margin: 0 5px; }
.wb-codes .dead { color: #D55E00; font-weight: 700; }
.wb-codes .quiet { opacity: .75; }
`;
const KEYS = "Click a code to select it (or use the arrow keys and Enter) · u sorts · Esc clears the selection";
const RAMP = ["#2a3f6d", "#575d6d", "#7d7c78", "#a59c74", "#d2ba61", "#fee838"]; // Cividis, without its darkest end
const DEAD = "#D55E00", PICKED = "#0072B2";

const decodeInts = (text) => decodeArray(text, Int32Array);

function render({ model, el, brush }) {
  const root = makeRoot(el, "wb-codes", STYLE);
  root.style.setProperty("--wb-height", moduleHeight);
  const bar = make("div", { className: "bar" }, root), both = make("div", { className: "both" }, root);
  const cells = make("div", { className: "cells" }, both), side = make("div", { className: "side" }, both);
  const canvas = make("canvas", {}, cells), context = canvas.getContext("2d");
  canvas.setAttribute("role", "img");
  const card = make("div", { className: "card" }, side), picked = make("div", { className: "picked" }, side);
  const caption = make("div", { className: "caption" }, root);
  make("div", { className: "quiet", textContent: KEYS }, root);
  const sorts = {
    number: ["by number", "Order the codes by their number"],
    use: ["by use (u)", "Order the codes by the number of tokens that use them"],
  };
  const buttons = Object.fromEntries(Object.entries(sorts).map(([sort, [textContent, title]]) => [sort, make("button", { textContent, title, onclick: () => change({ sort }) }, bar)]));
  make("button", { textContent: "clear (Esc)", title: "Deselect all codes", onclick: () => pick([]) }, bar);
  const key = make("span", { title: "Brighter: more tokens, on a logarithmic scale. A cross: no token uses the code." }, bar);

  let data, codes, counts, examples, marks, sheet, order = [], under = -1, columns = 1, cell = 10, most = 1, generation = 0;
  let images, cellsOfImages, within = null; // within: counts of each code in images that were selected elsewhere
  let view = { selected: [], sort: "number" };

  function change(changes) {
    if (changes.sort && changes.sort !== view.sort) { under = -1; point(); } // the cell shows another code now
    view = { ...view, ...changes };
    writeView(model, view);
    arrange();
  }
  function pick(selected) {
    within = null;
    change({ selected, within: null });
    point();
    brush?.publish({ code: selected, image: imagesWith(selected) });
  }
  const toggle = (code) => {
    const isSelected = view.selected.includes(code);
    pick(isSelected ? view.selected.filter((other) => other !== code) : [...view.selected, code]);
  };
  const codesOf = (row) => cellsOfImages.subarray(row * data.held.tokens, (row + 1) * data.held.tokens);
  function imagesWith(selected) {
    const cells = new Set([...codes.keys()].filter((i) => selected.includes(codes[i])));
    return [...images].filter((_, row) => codesOf(row).some((i) => cells.has(i)));
  }
  function count(ids) {
    const selected = new Set(ids), counts = new Int32Array(data.n);
    const rows = [...images.keys()].filter((row) => selected.has(images[row]));
    rows.forEach((row) => codesOf(row).forEach((i) => { if (i < data.n) counts[i]++; }));
    const total = rows.length < selected.size ? `of ${formatCount(selected.size)} ` : "";
    return { counts, label: `${formatCount(rows.length)} ${total}selected images` };
  }
  // Counts that Python has made; without Python they are made here, from the brush.
  function takeWithin() {
    if (brush) return;
    within = view.within ? { counts: decodeInts(view.within.counts), label: view.within.label } : null;
  }
  const shownCounts = () => within?.counts ?? counts;
  const title = (i) => (Math.max(...codes) >= data.size ? `book ${Math.floor(codes[i] / data.size)}, code ${codes[i] % data.size}` : `code ${codes[i]}`);

  function arrange() {
    if (!data) return;
    order = [...codes.keys()];
    if (view.sort === "use") order.sort((a, b) => shownCounts()[b] - shownCounts()[a] || counts[b] - counts[a] || a - b);
    most = Math.max(1, ...shownCounts());
    key.replaceChildren(`tokens per code${within ? ` in ${within.label}` : ""}: 1`, make("span", { className: "ramp", style: `background:linear-gradient(to right,${RAMP})` }), `${most} · `);
    make("span", { className: "dead", textContent: "×" }, key);
    key.append(within ? " not in any image" : " not used");
    Object.entries(buttons).forEach(([sort, button]) => button.setAttribute("aria-pressed", sort === view.sort));
    const width = Math.max(200, Math.min(900, cells.clientWidth || 600)) - 16;
    // The largest cells with which the grid fits into the frame, so that no part of it stays empty.
    const height = (isStatic ? STATIC_HEIGHT_PX : Math.max(320, Math.min(640, 0.66 * window.innerHeight))) - 8;
    cell = Math.max(5, Math.min(34, Math.floor(Math.sqrt(width * height / data.n))));
    columns = Math.min(data.n, Math.floor(width / cell));
    const ratio = window.devicePixelRatio || 1, rows = Math.ceil(data.n / columns);
    Object.assign(canvas, { width: (columns * cell + 1) * ratio, height: (rows * cell + 1) * ratio });
    canvas.style.width = `${columns * cell + 1}px`;
    canvas.style.height = `${rows * cell + 1}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint();
    list();
  }
  function shade(count) {
    const at = Math.log1p(count) / Math.log1p(most) * (RAMP.length - 1), low = Math.min(RAMP.length - 2, Math.floor(at));
    const part = (hex, i) => parseInt(hex.slice(i, i + 2), 16);
    return `rgb(${[1, 3, 5].map((i) => Math.round(part(RAMP[low], i) + (at - low) * (part(RAMP[low + 1], i) - part(RAMP[low], i)))).join()})`;
  }
  function paint() {
    context.clearRect(0, 0, canvas.width, canvas.height);
    const gap = cell > 7 ? 1 : 0;
    order.forEach((i, place) => {
      const x = place % columns * cell, y = Math.floor(place / columns) * cell, inner = cell - gap;
      if (counts[i]) {
        context.fillStyle = shownCounts()[i] ? shade(shownCounts()[i]) : "#8883";
        context.fillRect(x, y, inner, inner);
      } else {
        context.strokeStyle = DEAD;
        context.lineWidth = 1;
        context.beginPath();
        for (const [a, b] of [[0.25, 0.75], [0.75, 0.25]]) { context.moveTo(x + 0.25 * inner, y + a * inner); context.lineTo(x + 0.75 * inner, y + b * inner); }
        context.stroke();
      }
      if (view.selected.includes(codes[i]) || place === under) {
        context.strokeStyle = view.selected.includes(codes[i]) ? PICKED : getComputedStyle(root).color;
        context.lineWidth = 3;
        context.strokeRect(x + 1.5, y + 1.5, inner - 3, inner - 3);
      }
    });
  }
  function thumbs(i, size, parent) {
    const box = make("div", { className: "thumbs" }, parent), { columns: across, size: [h, w] } = data.thumbs;
    for (let e = i * data.each; e < (i + 1) * data.each && examples[e] >= 0; e++) {
      const scale = Math.max(1, Math.round(size / Math.max(h, w)));
      const small = make("canvas", { width: w * scale, height: h * scale }, box), pen = small.getContext("2d");
      small.style.width = `${size * w / Math.max(h, w)}px`;
      pen.imageSmoothingEnabled = false;
      pen.drawImage(sheet, examples[e] % across * w, Math.floor(examples[e] / across) * h, w, h, 0, 0, w * scale, h * scale);
      if (data.grid) {
        const [rows, wide] = data.grid, high = h * scale / rows, long = w * scale / wide;
        pen.strokeStyle = PICKED;
        pen.lineWidth = Math.max(1, scale / 2);
        pen.strokeRect(marks[e] % wide * long, Math.floor(marks[e] / wide) * high, long, high);
      }
    }
  }
  function describe(i, parent) {
    const total = data.total, share = 100 * counts[i] / total, all = `${formatCount(counts[i])} tokens`;
    make("b", { textContent: title(i) }, parent);
    const usage = within ? `${formatCount(within.counts[i])} of ${all}` : `${all}, ${share.toPrecision(2)} %`;
    const text = counts[i] ? ` · ${usage}` : " · never used ×";
    make("span", { textContent: text, className: counts[i] ? "" : "dead" }, parent);
    thumbs(i, 44, parent);
  }
  function point() {
    card.replaceChildren();
    if (under >= 0) describe(order[under], card);
    else make("div", { className: "quiet", textContent: "Hover over a code to see images that contain it." }, card);
    paint();
  }
  function list() {
    picked.replaceChildren();
    const cellsListed = order.filter((i) => within ? within.counts[i] : view.selected.includes(codes[i]));
    if (within) cellsListed.sort((a, b) => within.counts[b] - within.counts[a] || a - b);
    if (within) make("div", { className: "within", textContent: `${within.label} contain ${cellsListed.length} codes:` }, picked);
    else if (cellsListed.length) make("div", { textContent: `${cellsListed.length} selected:` }, picked);
    cellsListed.slice(0, 20).forEach((i) => describe(i, picked));
    if (cellsListed.length > 20) make("div", { className: "quiet", textContent: "Only the first 20 are shown." }, picked);
  }
  const cellAt = (event) => {
    const [x, y] = pointerPosition(canvas, event), column = Math.floor(x / cell), row = Math.floor(y / cell);
    return column < columns && row * columns + column < data.n ? row * columns + column : -1;
  };
  canvas.onpointermove = (event) => { const place = cellAt(event); if (place !== under) { under = place; point(); } };
  canvas.onpointerleave = () => { under = -1; point(); };
  canvas.onclick = (event) => { const place = cellAt(event); if (place >= 0) toggle(codes[order[place]]); };
  onKey(root, (event) => {
    // Enter on a button presses the button.
    if (!data || (event.target.tagName === "BUTTON" && event.key === "Enter")) return null;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (step) return () => { under = Math.min(data.n - 1, Math.max(0, under + step)); point(); };
    if (event.key === "Enter" && under >= 0) return () => toggle(codes[order[under]]);
    if (event.key === "Escape") return () => pick([]);
    if (event.key === "u") return () => change({ sort: view.sort === "use" ? "number" : "use" });
    return null;
  });

  async function load() {
    const current = ++generation, next = readJson(model, "data");
    if (next.n === undefined) return;
    const image = Object.assign(new Image(), { src: next.thumbs.sheet });
    await image.decode();
    if (current !== generation) return; // newer data arrived while the image was decoded
    [data, sheet, under] = [next, image, -1];
    [codes, counts, examples, marks] = [next.codes, next.counts, next.examples, next.marks].map(decodeInts);
    if (brush) [images, cellsOfImages] = [decodeInts(data.held.images), decodeArray(data.held.codes, Uint16Array)];
    caption.textContent = data.caption;
    canvas.setAttribute("aria-label", data.caption);
    view = { ...view, ...readJson(model, "view") };
    takeWithin();
    arrange();
    point();
  }
  function follow() {
    const next = { ...view, ...readJson(model, "view") };
    if (!data || JSON.stringify(next) === JSON.stringify(view)) return;
    view = next;
    takeWithin();
    arrange();
    point();
  }
  brush?.subscribe(({ code = [], image }) => {
    if (!data) return;
    under = -1;
    within = image?.length && !code.length ? count(image) : null;
    change({ selected: code });
    point();
    if (code.length && !image) queueMicrotask(() => pick(code)); // after all have received it: the sender does not know the images
  });
  const stopObserving = observeModel(model, load, follow);
  const resized = new ResizeObserver(arrange);
  resized.observe(root);
  load();
  return () => {
    resized.disconnect();
    stopObserving();
  };
}

export default { render };
