// A lens: images along an axis next to their references, with one zoom, flip, wipe and blink.
// data: { axis, stops, rows, against, notes[n][m], active[n][m], size: [h, w], reference, shown,
//         note, name, beside, places }
//   reference and shown are PNG sheets of n x 1 and n x m cells. beside are other runs with the
//   same rows: { name, stops, at[m], notes, active, shown }; at is the stop of that run for each
//   stop of the primary run. places[n] are the indices of the rows' images, or null: rows that
//   are selected in another view are marked, and a click selects.
// view: { row, stop, mode: "side" | "flip" | "wipe", gain, lead }
//   lead is the number of the run that flip and wipe show.

// Cividis, dark to bright; LUT is 256 steps of it, since an error map asks for thousands.
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const STYLE = `
.wb-lens { font: 13px var(--wb-font, system-ui, sans-serif); color: inherit; max-width: 960px; outline: none; padding: 4px; }
.wb-lens:focus-visible { outline: 2px solid #0072B2; outline-offset: 2px; border-radius: 4px; }
.wb-lens .strip { display: flex; gap: 6px; overflow-x: auto; padding: 3px 3px 6px; }
.wb-lens .cell { border: 0; padding: 2px; background: none; color: inherit; cursor: pointer; font: inherit;
  font-size: 11px; border-radius: 4px; outline: 2px solid transparent; flex: none; text-align: center; }
.wb-lens .cell[aria-pressed=true] { outline-color: #E69F00; }
.wb-lens .cell.held { border-bottom: 3px solid #E69F00; }
.wb-lens .cell canvas { display: block; margin: 0 auto 2px; }
.wb-lens canvas { image-rendering: pixelated; }
.wb-lens .panels { display: flex; flex-wrap: wrap; align-items: flex-end; gap: 18px 10px; margin: 6px 0 18px; }
.wb-lens figure { margin: 0; }
.wb-lens figcaption { padding: 0 0 3px; overflow-wrap: anywhere; }
.wb-lens .panels canvas { display: block; cursor: grab; border: 1px solid #8886; box-sizing: border-box; touch-action: none; }
.wb-lens .bar { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; }
.wb-lens .bar button { font: inherit; color: var(--wb-accent, inherit); background: none; border: 1px solid var(--wb-accent, #888a); border-radius: 4px;
  padding: 2px 8px; cursor: pointer; }
.wb-lens .bar button[aria-pressed=true] { background: #0072B2; border-color: #0072B2; color: white; }
.wb-lens input[type=range][aria-label=stop] { flex: 0 1 320px; }
.wb-lens input[type=range] { accent-color: #0072B2; vertical-align: middle; }
.wb-lens .halting { display: inline-flex; gap: 2px; flex-wrap: wrap; vertical-align: middle; }
.wb-lens .halting i { width: 9px; height: 9px; border: 1px solid currentColor; opacity: .45; }
.wb-lens .halting i.on { background: #0072B2; border-color: #0072B2; opacity: 1; }
/* The color bar is below its picture without height, so that all pictures of a row are level. */
.wb-lens .ramp { display: flex; gap: 6px; align-items: center; height: 15px; margin-bottom: -15px; font-size: 11px; }
.wb-lens .ramp i { flex: 1; height: 8px; background: linear-gradient(to right, ${CIVIDIS.map((color) => `rgb(${color})`).join(", ")}); }
.wb-lens .panels .note { margin: -32px 0 -14px; align-self: flex-start; } /* the gaps of two rows are above it */
.wb-lens .told.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; white-space: nowrap; }
.wb-lens .panels .break { flex-basis: 100%; height: 0; }
.wb-lens .cell .count { display: block; opacity: .75; }
.wb-lens .cell .count:empty { display: none; }
.wb-lens .quiet { opacity: .75; }
.wb-lens .label { font-weight: 600; }
`;
const MODES = { side: "side by side", flip: "flip (f)", wipe: "wipe (w)" };
const MODE_TITLES = { side: "All pictures in a row", flip: "One picture, replaced by the other with f", wipe: "One picture over the other, up to a line that follows the pointer" };
const KEYS = "Click an image, then: ← → or [ ] move along the axis · ↑ ↓ row · , . run · f flip · w wipe · space blink · wheel zooms · drag moves · 0 resets the zoom";

async function pixels(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = make("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return { canvas, data: context.getImageData(0, 0, image.width, image.height).data };
}

const LUT = Uint8ClampedArray.from({ length: 1024 }, (_, i) => {
  if (i % 4 === 3) return 255;
  const at = Math.floor(i / 4) / 255 * (CIVIDIS.length - 1), low = Math.min(CIVIDIS.length - 2, Math.floor(at));
  return CIVIDIS[low][i % 4] + (at - low) * (CIVIDIS[low + 1][i % 4] - CIVIDIS[low][i % 4]);
});

function render({ model, el, brush }) {
  const root = makeRoot(el, "wb-lens", STYLE);
  const bar = make("div", { className: "bar" }, root);
  const rows = make("div", { className: "strip", ariaLabel: "rows" }, root);
  const within = make("div", { className: "quiet within", hidden: true }, root);
  const along = make("div", { className: "bar" }, root);
  const panels = make("div", { className: "panels" }, root);
  const stops = make("div", { className: "strip", ariaLabel: "stops" }, root);
  // The notes as one text: on the screen unless they are below their pictures, and for screen readers in any case.
  const status = make("div", { className: "told" }, root), remark = make("div", { className: "quiet" }, root);
  const probe = make("div", { className: "quiet probe", textContent: "\u00a0" }, root);
  make("div", { className: "quiet", textContent: KEYS }, root);

  let data, reference, shown = [], maps = [], held = new Set(), flipped = false, blinking = 0, wipe = 0.5, generation = 0, moving = null;
  let view = { row: 0, stop: 0, mode: "side", gain: 4, lead: 0, ...readJson(model, "view") };
  let zoom = { x: 0, y: 0, k: 1 };
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const slider = make("input", { type: "range", min: 0, step: 1, ariaLabel: "stop", title: "Moves along the steps below" });
  const name = make("span", { className: "label" }, along);
  along.append(slider);
  const modes = Object.fromEntries(Object.entries(MODES).map(([mode, text]) => {
    const button = make("button", { textContent: text, title: MODE_TITLES[mode], onclick: () => change({ mode }) }, bar);
    return [mode, button];
  }));
  const blink = make("button", { textContent: "blink (space)", title: "Alternate between the two images", onclick: toggleBlink }, bar);
  make("button", { textContent: "reset zoom (0)", title: "Show whole images", onclick: reset }, bar);
  const gainLabel = make("label", { textContent: "gain × ", title: "Factor by which differences are brightened" }, bar);
  const gain = make("input", { type: "range", min: 0, max: 5, step: 1, ariaLabel: "gain of the difference" }, gainLabel);
  const gainValue = make("span", {}, gainLabel);

  function take(changes) {
    view = { ...view, ...changes };
    view.row = Math.min(Math.max(0, view.row), data.rows.length - 1);
    view.stop = Math.min(Math.max(0, view.stop), data.stops.length - 1);
    view.lead = Math.min(Math.max(0, view.lead), data.beside.length);
  }
  function change(changes) {
    take(changes);
    if ("mode" in changes) flipped = false;
    writeView(model, view);
    paint();
  }
  function hold(images) { // images that were selected here or in another view
    held = new Set(images);
    const here = (data.places ?? []).filter((place) => held.has(place));
    within.hidden = !held.size;
    const noun = held.size > 1 ? "images" : "image";
    within.textContent = `${held.size} ${noun} selected, ${here.length || "none"} of them in this lens`;
    if (here.length && !held.has(data.places[view.row])) change({ row: data.places.indexOf(here[0]) });
    else paint();
  }
  function pick(row) { // rows of a selection of several images can be visited without changing it
    if (!brush || !data.places || held.has(data.places[row])) return;
    hold([data.places[row]]);
    brush.publish({ image: [...held] });
  }
  function reset() { zoom = { x: 0, y: 0, k: 1 }; paint(); }
  function toggleBlink() {
    if (blinking) { clearInterval(blinking); blinking = 0; flipped = false; }
    else if (calm) flipped = !flipped;
    else blinking = setInterval(() => { flipped = !flipped; paint(); }, 450);
    if (view.mode !== "flip" && (blinking || calm)) change({ mode: "flip" }); else paint();
  }

  const many = () => data.beside.length > 0;
  const stopOf = (run) => (run ? data.beside[run - 1].at[view.stop] : view.stop);
  const nameOf = (run) => (run ? data.beside[run - 1].name : data.name);
  const colorOf = (run) => (many() ? data.colors?.[run] ?? "" : ""); // as in the list of runs
  function captionOf(run) {
    const stop = (run ? data.beside[run - 1] : data).stops[stopOf(run)];
    const here = data.stops.length > 1 ? `${data.axis}: ${stop}` : stop;
    return many() ? `${nameOf(run)} · ${here}` : here;
  }
  function side() { // longest side of an image on the screen, in pixels
    const width = Math.max(300, Math.min(960, el.clientWidth || 960)) - 12, across = Math.max(3, data.beside.length + 2);
    return view.mode === "side" ? Math.floor(Math.min(280, (width - 12 * (across - 1)) / across)) : Math.min(420, width);
  }
  function source(run) { // -1: the reference
    const [h, w] = data.size;
    return run < 0 ? [reference, 0, view.row * h] : [shown[run], stopOf(run) * w, view.row * h];
  }
  function blit(context, run, size) {
    const [h, w] = data.size, scale = size / Math.max(h, w) * zoom.k, [sheet, sx, sy] = source(run);
    context.drawImage(sheet.canvas, sx, sy, w, h, zoom.x, zoom.y, w * scale, h * scale);
  }
  function at(run, x, y) {
    const [sheet, sx, sy] = source(run), start = 4 * ((sy + y) * sheet.canvas.width + sx + x);
    return [sheet.data[start], sheet.data[start + 1], sheet.data[start + 2]];
  }
  function difference(run, x, y) {
    const a = at(-1, x, y), b = at(run, x, y);
    return (Math.abs(a[0] - b[0]) + Math.abs(a[1] - b[1]) + Math.abs(a[2] - b[2])) / 3 / 255;
  }
  function errors(run) {
    const key = [view.row, view.stop, view.gain].join();
    if (maps[run]?.key === key) return maps[run];
    const [h, w] = data.size, canvas = make("canvas", { width: w, height: h, key }), image = new ImageData(w, h);
    const [a, ax, ay] = source(-1), [b, bx, by] = source(run);
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const i = 4 * ((ay + y) * a.canvas.width + ax + x), j = 4 * ((by + y) * b.canvas.width + bx + x);
      const distance = Math.abs(a.data[i] - b.data[j]) + Math.abs(a.data[i + 1] - b.data[j + 1]) + Math.abs(a.data[i + 2] - b.data[j + 2]);
      const at = 4 * Math.min(255, Math.round(distance / 3 * view.gain)), to = 4 * (y * w + x);
      for (let c = 0; c < 4; c++) image.data[to + c] = LUT[at + c];
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return maps[run] = canvas;
  }
  function panel(caption, draw, run = view.lead, color = "") {
    const size = side(), [h, w] = data.size, ratio = window.devicePixelRatio || 1, longest = Math.max(h, w);
    const figure = make("figure", {}, panels);
    const wide = size * w / longest, high = size * h / longest;
    make("figcaption", { textContent: caption, style: `max-width:${wide}px${color && `;border-top:3px solid ${color}`}` }, figure);
    const canvas = make("canvas", { width: wide * ratio, height: high * ratio }, figure);
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${high}px`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", caption);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    draw(context, size, wide, high);
    listen(canvas, size, run);
    return figure;
  }
  function listen(canvas, size, run) {
    const place = (event) => pointerPosition(canvas, event);
    canvas.onwheel = (event) => {
      if (!root.contains(el.getRootNode().activeElement)) return; // otherwise the page could not be scrolled here
      event.preventDefault();
      const [x, y] = place(event), k = Math.min(32, Math.max(1, zoom.k * Math.exp(-event.deltaY / 400))), f = k / zoom.k;
      zoom = k === 1 ? { x: 0, y: 0, k } : { x: x - f * (x - zoom.x), y: y - f * (y - zoom.y), k };
      paint();
    };
    canvas.onpointerdown = (event) => { moving = { x: event.clientX - zoom.x, y: event.clientY - zoom.y }; };
    canvas.onpointermove = (event) => {
      const [x, y] = place(event);
      if (moving && zoom.k > 1) { zoom.x = event.clientX - moving.x; zoom.y = event.clientY - moving.y; paint(); }
      else if (view.mode === "wipe") { wipe = x / canvas.clientWidth; paint(); }
      showPixel(x, y, size, run);
    };
    canvas.ondblclick = reset;
  }
  const release = () => { moving = null; };
  window.addEventListener("pointerup", release);

  function showPixel(x, y, size, run) {
    const [h, w] = data.size, scale = size / Math.max(h, w) * zoom.k;
    const column = Math.floor((x - zoom.x) / scale), line = Math.floor((y - zoom.y) / scale);
    if (column < 0 || line < 0 || column >= w || line >= h) { probe.textContent = "\u00a0"; return; }
    const format = (rgb) => rgb[0] === rgb[1] && rgb[1] === rgb[2] ? `${rgb[0]}` : `(${rgb.join(", ")})`;
    const a = format(at(-1, column, line)), here = shown.map((_, each) => {
      const label = many() ? nameOf(each) : "here";
      return `${label} ${format(at(each, column, line))}, difference ${difference(each, column, line).toFixed(3)}`;
    });
    probe.textContent = `pixel ${column}, ${line}: ${data.against} ${a}, ${(view.mode === "side" ? here : [here[run]]).join(" · ")}`;
  }

  function thumbnail(parent, run, row, stop, text, act) {
    const [h, w] = data.size, size = 52, canvas = make("canvas", { width: w, height: h });
    canvas.style.width = `${size * w / Math.max(h, w)}px`;
    const sheet = run < 0 ? reference.canvas : shown[run].canvas;
    canvas.getContext("2d").drawImage(sheet, run < 0 ? 0 : stop * w, row * h, w, h, 0, 0, w, h);
    const button = make("button", { className: "cell", title: text, onclick: act }, parent);
    button.append(canvas, make("span", { textContent: text }), make("span", { className: "count" }));
    return button;
  }
  function counts() { // number of tokens below each row
    const active = view.lead ? data.beside[view.lead - 1].active : data.active;
    [...rows.children].forEach((cell, row) => {
      cell.lastChild.textContent = active ? `${[...active[row][stopOf(view.lead)]].filter((digit) => digit === "1").length} tokens` : "";
    });
  }
  function strips() {
    const focused = stops.contains(el.getRootNode().activeElement);
    if (rows.data !== data) { // the images of newer data may still be decoded
      rows.replaceChildren();
      data.rows.forEach((text, row) => thumbnail(rows, -1, row, 0, text, () => { change({ row }); pick(row); }));
      rows.hidden = data.rows.length === 1;
      stops.hidden = along.hidden = data.stops.length === 1;
    }
    if (rows.data !== data || stops.row !== view.row || stops.lead !== view.lead) {
      stops.replaceChildren();
      const cellOf = (stop) => (view.lead ? data.beside[view.lead - 1].at[stop] : stop);
      data.stops.forEach((text, stop) => thumbnail(stops, view.lead, view.row, cellOf(stop), text, () => change({ stop })));
      if (focused) root.focus({ preventScroll: true });
    }
    [rows.data, stops.row, stops.lead] = [data, view.row, view.lead];
    counts();
    data.places?.forEach((place, row) => rows.children[row].classList.toggle("held", held.has(place)));
    highlight(rows, view.row);
    highlight(stops, view.stop);
  }
  function highlight(strip, index) {
    [...strip.children].forEach((cell, i) => cell.setAttribute("aria-pressed", i === index));
    const left = strip.children[index].offsetLeft - strip.offsetLeft, right = left + strip.children[index].offsetWidth;
    if (left < strip.scrollLeft) strip.scrollLeft = left - 3;
    else if (right > strip.scrollLeft + strip.clientWidth) strip.scrollLeft = right + 3 - strip.clientWidth;
  }

  function paint() {
    if (!data) return;
    const here = captionOf(view.lead), all = [...shown.keys()];
    panels.replaceChildren();
    if (view.mode === "side") {
      panel(data.against, (context, size) => blit(context, -1, size), 0);
      all.forEach((run) => panel(captionOf(run), (context, size) => blit(context, run, size), run, colorOf(run)));
      const style = `width:${side() * data.size[1] / Math.max(...data.size)}px`;
      const beginRow = () => { // below the pictures of the runs, not below the original
        make("div", { className: "break" }, panels);
        make("div", { style }, panels);
      };
      const writeNotes = () => {
        beginRow();
        all.forEach((run) => describe(run, make("div", { className: "note", style }, panels)));
      };
      if (many()) {
        writeNotes();
        beginRow();
      }
      all.forEach((run) => {
        const sheet = errors(run), caption = `difference × ${view.gain}`;
        const figure = panel(many() ? `${nameOf(run)} · ${caption}` : caption, (context, size) => {
          const [h, w] = data.size, scale = size / Math.max(h, w) * zoom.k;
          context.drawImage(sheet, 0, 0, w, h, zoom.x, zoom.y, w * scale, h * scale);
        }, run, colorOf(run));
        const ramp = make("div", { className: "ramp", title: "Absolute difference, as a share of the pixel range" }, figure);
        make("span", { textContent: "0" }, ramp);
        make("i", {}, ramp);
        make("span", { textContent: `${Number((1 / view.gain).toPrecision(2))}` }, ramp);
      });
      if (!many()) writeNotes();
    } else if (view.mode === "flip") {
      panel(flipped ? data.against : here, (context, size) => blit(context, flipped ? -1 : view.lead, size));
    } else {
      panel(`${data.against} | ${here}`, (context, size, wide, high) => {
        blit(context, view.lead, size);
        context.save();
        context.beginPath();
        context.rect(0, 0, wipe * wide, high);
        context.clip();
        blit(context, -1, size);
        context.restore();
        context.fillStyle = "#E69F00";
        context.fillRect(wipe * wide - 1, 0, 2, high);
      });
    }
    strips();
    name.textContent = data.axis;
    Object.assign(slider, { max: data.stops.length - 1, value: view.stop });
    Object.entries(modes).forEach(([mode, button]) => button.setAttribute("aria-pressed", mode === view.mode));
    blink.setAttribute("aria-pressed", blinking > 0);
    gain.value = Math.log2(view.gain);
    gainValue.textContent = ` ${view.gain}`;
    gainLabel.style.visibility = view.mode === "side" ? "visible" : "hidden";
    status.replaceChildren();
    status.classList.toggle("unseen", view.mode === "side"); // the notes are below the pictures
    all.forEach((run) => describe(run, make("div", {}, status), `${run ? "" : `${data.rows[view.row]} · `}${captionOf(run)} · `));
    remark.textContent = data.note || "";
  }

  function describe(run, parent, start = "") { // the errors of a run, and the tokens that its decoder used
    const of = run ? data.beside[run - 1] : data, active = of.active?.[view.row][stopOf(run)];
    make("span", { textContent: `${start}${of.notes[view.row][stopOf(run)]} ` }, parent);
    if (!active) return;
    const halting = make("span", { className: "halting", title: "Filled: a token that the decoder used." }, parent);
    [...active].forEach((digit) => make("i", { className: digit === "1" ? "on" : "" }, halting));
  }

  slider.oninput = () => change({ stop: Number(slider.value) });
  gain.oninput = () => change({ gain: 2 ** Number(gain.value) });
  const flip = () => {
    if (view.mode === "flip") flipped = !flipped;
    else { change({ mode: "flip" }); flipped = true; }
    paint();
  };
  const clear = () => {
    if (blinking) toggleBlink();
    change({ mode: "side" });
    brush?.publish({});
    hold([]);
  };
  onKey(root, (event) => {
    // Arrow keys move a slider that has the focus.
    if (!data || (event.target.type === "range" && event.key.startsWith("Arrow"))) return null;
    const move = (stops) => () => change({ stop: view.stop + stops });
    return {
      "[": move(-1), "]": move(1), ArrowLeft: move(-1), ArrowRight: move(1),
      ArrowUp: () => change({ row: view.row - 1 }), ArrowDown: () => change({ row: view.row + 1 }),
      // No letters or digits of the page's keys.
      ",": () => change({ lead: view.lead - 1 }), ".": () => change({ lead: view.lead + 1 }),
      f: flip, w: () => change({ mode: view.mode === "wipe" ? "side" : "wipe" }),
      " ": toggleBlink, 0: reset, Escape: clear,
    }[event.key];
  });

  async function load() {
    const current = ++generation, next = readJson(model, "data");
    if (!next.stops) return;
    next.beside ??= [];
    const sheets = await Promise.all([next.reference, next.shown, ...next.beside.map((comparison) => comparison.shown)].map(pixels));
    if (current !== generation) return; // newer data arrived while the images were decoded
    [reference, ...shown] = sheets;
    [data, maps] = [next, []];
    take(readJson(model, "view"));
    paint();
  }
  const follow = () => { if (data) { take(readJson(model, "view")); paint(); } };
  brush?.subscribe(({ image = [] }) => { if (data) hold(image); });
  const stopObserving = observeModel(model, load, follow);
  let wide = el.clientWidth;
  const resized = new ResizeObserver(() => { // the height depends on the content
    if (el.clientWidth !== wide) { wide = el.clientWidth; paint(); }
  });
  resized.observe(el);
  load();
  return () => {
    clearInterval(blinking);
    resized.disconnect();
    window.removeEventListener("pointerup", release);
    stopObserving();
  };
}

export default { render };
