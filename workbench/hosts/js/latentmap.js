// A latent map of up to a million points, each of which opens into its image; a lasso selects points.
// data: { n, xy, box: [x0, y0, x1, y1], color, palette, groups, scale, values, places, names,
//         titles, caption, thumbs: { sheet, columns, count, size: [h, w] } | null }
//   Arrays are base64. xy: uint16 pairs within the box. color: uint8 indices into the palette,
//   which has one color per group, or is a ramp over scale [low, high, title] of values (float32).
//   places: int32 indices of the points' images. names: int32 indices into titles. Thumbnails are
//   cells of the sheet, of the first `count` points.
// view: { polygon: [[x, y], ...] | null, ids: [image indices], hidden: [groups], labels, density }
//   A lasso in the units of the box; without one, images that were clicked, searched for, or
//   selected in another view. labels: whether groups have their names on the map. density: whether
//   lines of equal density are drawn, or null for maps with many points.

const STYLE = `
.wb-map { font: 13px var(--wb-font, system-ui, sans-serif); color: inherit; outline: none; padding: 4px; }
.wb-map:focus-visible { outline: 2px solid #0072B2; outline-offset: 2px; border-radius: 4px; }
.wb-map .bar { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; margin-bottom: 6px; }
.wb-map button { font: inherit; color: var(--wb-accent, inherit); background: none; border: 1px solid var(--wb-accent, #888a); border-radius: 4px;
  padding: 2px 8px; cursor: pointer; }
.wb-map button[aria-pressed=true] { background: #0072B2; border-color: #0072B2; color: white; }
.wb-map .both { display: flex; flex-wrap: wrap; gap: 12px; }
.wb-map .plane { position: relative; flex: 1 1 320px; height: var(--wb-height); border: 1px solid #8886; overflow: hidden; touch-action: none; }
.wb-map .plane canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.wb-map .side { flex: 0 1 250px; max-height: var(--wb-height); overflow-y: auto; }
.wb-map input { font: inherit; color: inherit; background: none; border: 1px solid #888a; border-radius: 4px; padding: 2px 6px;
  width: 15em; max-width: 100%; }
.wb-map .labels { position: absolute; inset: 0; pointer-events: none; overflow: hidden; }
.wb-map .labels span { position: absolute; transform: translate(-50%, -50%); font-size: 12px; font-weight: 600; white-space: nowrap;
  padding: 0 4px; border-radius: 4px; background: color-mix(in srgb, Canvas 75%, transparent); color: CanvasText; }
.wb-map .legend { display: flex; flex-wrap: wrap; gap: 2px 4px; }
.wb-map .legend button[aria-pressed] { border: 0; padding: 1px 6px; text-align: left; background: none; color: inherit; }
.wb-map .legend button[aria-pressed=false] { opacity: .4; text-decoration: line-through; }
.wb-map .legend i { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 5px; }
.wb-map .ramp { height: 10px; border-radius: 3px; }
.wb-map .ends { display: flex; justify-content: space-between; }
.wb-map .card { position: absolute; pointer-events: none; background: Canvas; color: CanvasText; border: 1px solid #8888;
  border-radius: 4px; padding: 4px; font-size: 12px; box-shadow: 0 1px 4px #0004; white-space: nowrap; }
.wb-map .card canvas, .wb-map .picked canvas { position: static; display: block; image-rendering: pixelated; }
.wb-map .picked { display: flex; flex-wrap: wrap; gap: 2px; margin-top: 4px; }
.wb-map .quiet { opacity: .75; }
`;
const KEYS = "Click the map, then: l lasso or move · wheel zooms · shift-drag moves · Esc or a click on the background clears the selection · 0 resets the zoom · d density · n names";
const CELLS = 512, SHOWN = 80;
const DENSITY_CELLS = 96, MANY_POINTS = 20000; // from so many points on, lines of equal density are drawn
const CONTOURS = [0.02, 0.08, 0.2, 0.45, 0.75]; // of the largest density
const LABEL_CELLS = 32, LABEL_GAP_PX = 16;
const VERTEX = `attribute vec2 place; attribute vec4 color; uniform vec2 scale, offset; uniform float size; varying vec4 seen;
void main() { gl_Position = vec4(place * scale + offset, 0.0, 1.0); gl_PointSize = size; seen = color; }`;
const FRAGMENT = `precision mediump float; varying vec4 seen;
void main() { float r = length(gl_PointCoord - 0.5); if (r > 0.5) discard; gl_FragColor = vec4(seen.rgb * seen.a, seen.a); }`;


// Draws points with WebGL, or on a plain canvas if it is not available.
function painter(canvas) {
  const gl = canvas.getContext("webgl", { premultipliedAlpha: true, antialias: false });
  if (!gl) return plain(canvas);
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  const places = gl.createBuffer(), colors = gl.createBuffer();
  const feed = (buffer, name, values, count, kind) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    const where = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(where);
    gl.vertexAttribPointer(where, count, kind, true, 0, 0);
  };
  const uniform = (name) => gl.getUniformLocation(program, name);
  return {
    places: (xy) => feed(places, "place", xy, 2, gl.UNSIGNED_SHORT),
    colors: (rgba) => feed(colors, "color", rgba, 4, gl.UNSIGNED_BYTE),
    draw(n, { x, y, k }, width, height, size, ratio) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.uniform2f(uniform("scale"), 2 * k / width, 2 * k / height);
      gl.uniform2f(uniform("offset"), 2 * x / width - 1, 1 - 2 * (y + k) / height);
      gl.uniform1f(uniform("size"), size * ratio);
      gl.drawArrays(gl.POINTS, 0, n);
    },
    end: () => gl.getExtension("WEBGL_lose_context")?.loseContext(),
  };
}
function plain(canvas) {
  const context = canvas.getContext("2d");
  let xy, rgba;
  return {
    places: (values) => { xy = values; }, colors: (values) => { rgba = values; }, end() {},
    draw(n, { x, y, k }, width, height, size, ratio) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      const step = Math.ceil(n / 50000); // a plain canvas is slow: draw a part
      for (let i = 0; i < n; i += step) {
        context.fillStyle = `rgba(${rgba[4 * i]},${rgba[4 * i + 1]},${rgba[4 * i + 2]},${rgba[4 * i + 3] / 255})`;
        context.fillRect(x + k * xy[2 * i] / 65535 - size / 2, y + k * (1 - xy[2 * i + 1] / 65535) - size / 2, size, size);
      }
    },
  };
}

// An index of nearby points: their order by cell of a grid, and where each cell begins.
function cells(xy, n) {
  const begins = new Int32Array(CELLS * CELLS + 1), order = new Int32Array(n), cell = new Int32Array(n);
  for (let i = 0; i < n; i++) begins[(cell[i] = (xy[2 * i + 1] >> 7) * CELLS + (xy[2 * i] >> 7)) + 1]++;
  for (let c = 0; c < CELLS * CELLS; c++) begins[c + 1] += begins[c];
  const next = begins.slice();
  for (let i = 0; i < n; i++) order[next[cell[i]]++] = i;
  return { begins, order };
}

// Number of points in each cell of a grid, blurred over neighboring cells; only points that `keeps` accepts.
function densities(xy, n, side, keeps = () => true) {
  let counts = new Float32Array(side * side);
  const cell = (value) => Math.min(side - 1, Math.floor(value / 65536 * side));
  for (let i = 0; i < n; i++) if (keeps(i)) counts[cell(xy[2 * i + 1]) * side + cell(xy[2 * i])]++;
  for (const step of [1, side, 1, side]) { // along rows and along columns, twice
    const blurred = new Float32Array(side * side);
    for (let c = 0; c < side * side; c++) {
      const at = step === 1 ? c % side : Math.floor(c / side);
      blurred[c] = (2 * counts[c] + (at > 0 ? counts[c - step] : 0) + (at < side - 1 ? counts[c + step] : 0)) / 4;
    }
    counts = blurred;
  }
  return counts;
}

// Lines of equal density at fractions of the largest one, by marching squares: segments [x0, y0, x1, y1] as parts of the
// box, where the vertical axis points down.
function contourLines(counts, side, fractions) {
  const most = Math.max(...counts), segments = [];
  const at = (row, column) => (row < 0 || column < 0 || row >= side || column >= side ? 0 : counts[row * side + column]);
  const point = (row, column) => [(column + 0.5) / side, 1 - (row + 0.5) / side];
  for (const level of fractions.map((fraction) => fraction * most)) {
    for (let row = -1; row < side; row++) for (let column = -1; column < side; column++) {
      const corners = [[row, column], [row, column + 1], [row + 1, column + 1], [row + 1, column]], crossings = [];
      corners.forEach(([r, c], i) => {
        const [nextRow, nextColumn] = corners[(i + 1) % 4], a = at(r, c), b = at(nextRow, nextColumn);
        if ((a >= level) === (b >= level)) return;
        const share = (level - a) / (b - a);
        crossings.push(point(r + share * (nextRow - r), c + share * (nextColumn - c)));
      });
      for (let i = 0; i + 1 < crossings.length; i += 2) segments.push([...crossings[i], ...crossings[i + 1]]);
    }
  }
  return segments;
}

// The smallest rectangle around all points, as parts of the box; the vertical axis points down.
function extentOf(xy, n) {
  let [left, top, right, bottom] = n ? [1, 1, 0, 0] : [0, 0, 1, 1];
  for (let i = 0; i < n; i++) {
    const x = xy[2 * i] / 65535, y = 1 - xy[2 * i + 1] / 65535;
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  }
  return [left, top, right, bottom];
}

// The corners of a path that are more than `tolerance` pixels from the line between others (Douglas and Peucker): an
// address holds every corner of a selection.
function simplified(path, tolerance = 2) {
  const [x0, y0] = path[0], [x1, y1] = path[path.length - 1], [dx, dy] = [x1 - x0, y1 - y0];
  let [index, distance] = [0, tolerance];
  path.forEach(([x, y], i) => {
    const part = Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1)));
    const away = Math.hypot(x - x0 - part * dx, y - y0 - part * dy);
    if (away > distance) [index, distance] = [i, away];
  });
  if (!index) return [path[0], path[path.length - 1]];
  return [...simplified(path.slice(0, index + 1), tolerance).slice(0, -1), ...simplified(path.slice(index), tolerance)];
}

// Even-odd rule, with the operations of points_in_polygon in Python, so that both count alike.
function inside(xy, n, [x0, y0, x1, y1], polygon) {
  const isSelected = new Uint8Array(n), xs = polygon.map((p) => p[0]), ys = polygon.map((p) => p[1]);
  const left = Math.min(...xs), right = Math.max(...xs), low = Math.min(...ys), high = Math.max(...ys);
  for (let i = 0; i < n; i++) {
    const x = x0 + xy[2 * i] / 65535 * (x1 - x0), y = y0 + xy[2 * i + 1] / 65535 * (y1 - y0);
    if (x < left || x > right || y < low || y > high) continue;
    let odd = 0;
    for (let a = 0, b = xs.length - 1; a < xs.length; b = a++)
      if ((ys[a] > y) !== (ys[b] > y) && x < (xs[b] - xs[a]) * (y - ys[a]) / (ys[b] - ys[a]) + xs[a]) odd ^= 1;
    isSelected[i] = odd;
  }
  return isSelected;
}

function render({ model, el, brush }) {
  const root = makeRoot(el, "wb-map", STYLE);
  root.style.setProperty("--wb-height", moduleHeight);
  const bar = make("div", { className: "bar" }, root), both = make("div", { className: "both" }, root);
  const plane = make("div", { className: "plane" }, both), side = make("div", { className: "side" }, both);
  const canvas = make("canvas", {}, plane), over = make("canvas", {}, plane), context = over.getContext("2d");
  over.setAttribute("role", "img");
  const labels = make("div", { className: "labels" }, plane);
  const card = make("div", { className: "card", hidden: true }, plane);
  const legend = make("div", {}, side), status = make("div", { className: "told" }, side);
  const picked = make("div", { className: "picked" }, side);
  const caption = make("div", { className: "caption" }, root);
  make("div", { className: "quiet", textContent: KEYS }, root);
  const lassoing = make("button", { textContent: "lasso (l)", title: "Dragging draws a loop around points; otherwise it moves the map", onclick: () => lasso(!lassos) }, bar);
  make("button", { textContent: "clear (Esc)", title: "Deselect all points", onclick: () => pick(null) }, bar);
  make("button", { textContent: "reset zoom (0)", title: "Show all points", onclick: () => { fit(); paint(); } }, bar);
  const densityButton = make("button", { textContent: "density (d)", title: "Draw lines of equal density", onclick: () => set({ density: !showsDensity() }) }, bar);
  const namesButton = make("button", { textContent: "names (n)", title: "Write the name of each group where most of its points are", onclick: () => set({ labels: !view.labels }) }, bar);
  const search = make("input", { type: "search", placeholder: "find: class, mode or #index", title: "Points that match are highlighted; Enter selects them" }, bar);
  search.setAttribute("aria-label", "Find points by class, mode or index; Enter selects them");
  const matches = make("span", { className: "quiet" }, bar);
  search.oninput = () => find(search.value);
  search.onkeydown = (event) => {
    event.stopPropagation();
    if (event.key === "Enter" && hits) choose(null, places_(hits), true);
    if (event.key === "Escape") { search.value = ""; find(""); }
  };

  let data, xy, color, names, places, values, near, palette, isSelected = null, count = 0, sheet = null, pen;
  let view = initialView(), hits = null, contours = null, anchors = [], zoom = { x: 0, y: 0, k: 1 }, lassos = true, path = null, moving = null, empty = false, pressed = -1;
  let extent = [0, 0, 1, 1]; // of the points, as parts of the box: left, top, right, bottom
  let width = 600, height = 460, ratio = 1, under = -1, bright = -1, generation = 0;
  try { pen = painter(canvas); } catch { pen = plain(canvas); }
  lasso(true);

  function lasso(on) {
    lassos = on;
    lassoing.setAttribute("aria-pressed", on);
    over.style.cursor = on ? "crosshair" : "grab";
  }
  function initialView() { return { polygon: null, ids: [], hidden: [], labels: true, density: null, ...readJson(model, "view") }; }
  const showsDensity = () => view.density ?? (data?.n >= MANY_POINTS);
  function set(changes) {
    view = { ...view, ...changes };
    writeView(model, view);
    paint();
  }
  function choose(polygon, ids = [], publishes = false) {
    view = { ...view, polygon, ids };
    select();
    writeView(model, view);
    paint();
    if (publishes) brush?.publish({ image: isSelected ? places_(isSelected) : [] });
  }
  const pick = (polygon) => choose(polygon, [], true);
  const places_ = (mask) => [...mask.keys()].filter((i) => mask[i]).map(place);

  // Points whose title contains the text, or that have this index. The others are dimmed until Enter selects them.
  function find(text) {
    const wanted = text.trim().toLowerCase();
    hits = null;
    if (data && wanted) {
      hits = new Uint8Array(data.n);
      const inTitle = data.titles.map((title) => title.toLowerCase().includes(wanted));
      const index = /^#?\d+$/.test(wanted) ? Number(wanted.replace("#", "")) : -1;
      for (let i = 0; i < data.n; i++) hits[i] = wanted.startsWith("#") ? place(i) === index : (names && inTitle[names[i]]) || place(i) === index;
    }
    const total = hits?.reduce((sum, hit) => sum + hit, 0);
    matches.textContent = hits ? `${formatCount(total)} found${total ? ", Enter selects" : ""}` : "";
    if (data) { tint(); paint(); }
  }

  // The name of each group is written where most of its points are.
  function placeLabels() {
    anchors = [];
    if (data.scale || data.groups.length < 2) return;
    data.groups.forEach((group, g) => {
      const counts = densities(xy, data.n, LABEL_CELLS, (i) => color[i] === g), c = counts.indexOf(Math.max(...counts));
      const column = c % LABEL_CELLS, row = Math.floor(c / LABEL_CELLS);
      let x = 0, y = 0, total = 0;
      for (let i = 0; i < data.n; i++) { // the mean of the points around that cell
        if (color[i] !== g || Math.abs(Math.floor(xy[2 * i] / 65536 * LABEL_CELLS) - column) > 1
          || Math.abs(Math.floor(xy[2 * i + 1] / 65536 * LABEL_CELLS) - row) > 1) continue;
        x += xy[2 * i]; y += xy[2 * i + 1]; total++;
      }
      if (total) anchors.push({ g, group, size: counts[c], x: x / total / 65535, y: y / total / 65535 });
    });
    anchors.sort((a, b) => b.size - a.size);
    labels.replaceChildren(...anchors.map(({ group, g }) => make("span", { textContent: group, style: `border-bottom: 2px solid ${data.palette[g]}` })));
  }
  function moveLabels() {
    const taken = [];
    anchors.forEach(({ g, group, x, y }, i) => {
      const half = 4 * group.length + 4, column = zoom.x + zoom.k * x, row = zoom.y + zoom.k * (1 - y);
      const outside = column < 0 || row < 0 || column > width || row > height;
      // Above the points, and within the map.
      const at = [Math.max(half, Math.min(width - half, column)), Math.max(LABEL_GAP_PX, row - LABEL_GAP_PX)];
      const overlaps = taken.some(([left, top, other]) => Math.abs(left - at[0]) < half + other && Math.abs(top - at[1]) < LABEL_GAP_PX);
      const label = labels.children[i];
      label.hidden = !view.labels || overlaps || outside || view.hidden.includes(g);
      if (label.hidden) return;
      taken.push([at[0], at[1], half]);
      label.style.left = `${at[0]}px`;
      label.style.top = `${at[1]}px`;
    });
  }
  function makeContours() {
    const counts = densities(xy, data.n, DENSITY_CELLS, (i) => data.scale || !view.hidden.includes(color[i]));
    contours = contourLines(counts, DENSITY_CELLS, CONTOURS);
  }
  const place = (i) => (places ? places[i] : i);
  function select() {
    isSelected = view.polygon?.length > 2 ? inside(xy, data.n, data.box, view.polygon) : view.ids?.length ? among(view.ids) : null;
    count = isSelected ? isSelected.reduce((sum, selected) => sum + selected, 0) : 0;
    status.textContent = isSelected ? `${formatCount(count)} of ${formatCount(data.n)} selected` : "Click a point, or drag a loop around points to select them.";
    picked.replaceChildren();
    for (let i = 0, left = SHOWN; isSelected && data.thumbs && i < Math.min(data.n, data.thumbs.count) && left; i++)
      if (isSelected[i]) { picked.append(thumbnail(i, 36)); left--; }
    if (count > picked.children.length && picked.children.length) make("div", { className: "quiet", textContent: `Only the first ${picked.children.length} are shown.` }, picked);
    tint();
  }
  function among(ids) {
    const selected = new Set(ids), mask = new Uint8Array(data.n);
    for (let i = 0; i < data.n; i++) mask[i] = selected.has(place(i));
    return mask;
  }
  function tint() {
    const rgba = new Uint8Array(4 * data.n), hidden = new Set(view.hidden);
    const alpha = Math.round(255 * Math.max(0.25, Math.min(0.9, 40 / Math.cbrt(data.n)))); // fainter for more points, which overlap
    for (let i = 0; i < data.n; i++) {
      const group = color[i], dim = (hits && !hits[i]) || (isSelected && !isSelected[i]) || (bright >= 0 && group !== bright);
      const [r, g, b] = dim ? [136, 136, 136] : palette[group];
      rgba[4 * i] = r; rgba[4 * i + 1] = g; rgba[4 * i + 2] = b;
      rgba[4 * i + 3] = !data.scale && hidden.has(group) ? 0 : dim ? alpha >> 2 : alpha;
    }
    pen.colors(rgba);
  }
  function thumbnail(i, size) {
    const { columns, size: [h, w] } = data.thumbs, small = make("canvas", { width: w, height: h, title: title(i) });
    small.style.width = `${size * w / Math.max(h, w)}px`;
    small.getContext("2d").drawImage(sheet, i % columns * w, Math.floor(i / columns) * h, w, h, 0, 0, w, h);
    return small;
  }
  function title(i) {
    const value = values ? ` · ${data.scale[2]} ${values[i].toPrecision(3)}` : "";
    return `#${place(i)}${names ? ` · ${data.titles[names[i]]}` : ""}${value}`;
  }

  function key() {
    legend.replaceChildren();
    if (data.scale) {
      const [low, high, title] = data.scale;
      make("div", { textContent: title }, legend);
      make("div", { className: "ramp", style: `background:linear-gradient(to right,${data.palette.join()})` }, legend);
      const ends = make("div", { className: "ends" }, legend);
      [low, high].forEach((value) => make("span", { textContent: value.toPrecision(3) }, ends));
      return;
    }
    const list = make("div", { className: "legend" }, legend);
    data.groups.forEach((group, g) => {
      const button = make("button", { title: "Click to hide this group; hover to highlight it." }, list);
      make("i", { style: `background:${data.palette[g]}` }, button);
      button.append(group);
      button.setAttribute("aria-pressed", !view.hidden.includes(g));
      button.onclick = () => {
        const hidden = view.hidden.includes(g) ? view.hidden.filter((other) => other !== g) : [...view.hidden, g];
        view = { ...view, hidden };
        button.setAttribute("aria-pressed", !hidden.includes(g));
        contours = null;
        tint(); writeView(model, view); paint();
      };
      button.onmouseenter = () => { bright = g; tint(); paint(); };
      button.onmouseleave = () => { bright = -1; tint(); paint(); };
    });
  }

  function fit() {
    const [left, top, right, bottom] = extent, margin = 0.94;
    const k = margin * Math.min(width / Math.max(right - left, 0.2), height / Math.max(bottom - top, 0.2));
    zoom = { x: width / 2 - k * (left + right) / 2, y: height / 2 - k * (top + bottom) / 2, k };
  }
  const toScreen = ([x, y]) => {
    const [x0, y0, x1, y1] = data.box;
    return [zoom.x + zoom.k * (x - x0) / (x1 - x0), zoom.y + zoom.k * (1 - (y - y0) / (y1 - y0))];
  };
  const toData = ([x, y]) => {
    const [x0, y0, x1, y1] = data.box;
    const point = [x0 + (x - zoom.x) / zoom.k * (x1 - x0), y0 + (1 - (y - zoom.y) / zoom.k) * (y1 - y0)];
    const digits = Math.min(20, Math.max(0, 5 - Math.ceil(Math.log10(x1 - x0)))); // short enough for an address
    return point.map((value) => Number(value.toFixed(digits)));
  };
  function nearest([x, y]) {
    const u = 65535 * (x - zoom.x) / zoom.k, v = 65535 * (1 - (y - zoom.y) / zoom.k), reach = 65535 * 9 / zoom.k;
    let best = -1, least = reach * reach;
    const cell = (value) => Math.min(CELLS - 1, Math.max(0, value >> 7));
    for (let row = cell(v - reach); row <= cell(v + reach); row++)
      for (let at = near.begins[row * CELLS + cell(u - reach)]; at < near.begins[row * CELLS + cell(u + reach) + 1]; at++) {
        const i = near.order[at], distance = (xy[2 * i] - u) ** 2 + (xy[2 * i + 1] - v) ** 2;
        if (distance < least && !(!data.scale && view.hidden.includes(color[i]))) [best, least] = [i, distance];
      }
    return best;
  }

  function paint() {
    if (!data) return;
    const size = Math.min(9, Math.max(1.5, 9 - 1.25 * Math.log10(data.n))) * Math.min(2, (zoom.k / Math.min(width, height)) ** 0.25);
    pen.draw(data.n, zoom, width, height, size, ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.fillStyle = "#00000001"; // Chromium without a GPU may keep showing a canvas that was only cleared
    context.fillRect(0, 0, 1, 1);
    densityButton.setAttribute("aria-pressed", Boolean(showsDensity()));
    namesButton.setAttribute("aria-pressed", Boolean(view.labels) && anchors.length > 0);
    namesButton.disabled = !anchors.length;
    moveLabels();
    if (showsDensity()) {
      if (!contours) makeContours();
      context.strokeStyle = getComputedStyle(root).color;
      context.globalAlpha = 0.75;
      context.lineWidth = 1;
      context.beginPath();
      for (const [x0, y0, x1, y1] of contours) {
        context.moveTo(zoom.x + zoom.k * x0, zoom.y + zoom.k * y0);
        context.lineTo(zoom.x + zoom.k * x1, zoom.y + zoom.k * y1);
      }
      context.stroke();
      context.globalAlpha = 1;
    }
    const loop = path ?? view.polygon?.map(toScreen);
    if (loop?.length > 1) {
      context.beginPath();
      loop.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.fillStyle = "#E69F0022";
      context.fill();
      context.strokeStyle = "#E69F00";
      context.lineWidth = 1.5;
      context.stroke();
    }
    if (under >= 0) {
      const x = zoom.x + zoom.k * xy[2 * under] / 65535, y = zoom.y + zoom.k * (1 - xy[2 * under + 1] / 65535);
      context.beginPath();
      context.arc(x, y, size / 2 + 3, 0, 7);
      context.strokeStyle = getComputedStyle(root).color;
      context.stroke();
      card.hidden = false;
      card.replaceChildren();
      if (data.thumbs && under < data.thumbs.count) card.append(thumbnail(under, 96));
      make("div", { textContent: title(under) }, card);
      card.style.left = `${x + card.offsetWidth + 14 > width ? x - card.offsetWidth - 10 : x + 10}px`;
      card.style.top = `${Math.max(0, Math.min(height - card.offsetHeight, y + 10))}px`;
    } else card.hidden = true;
  }

  const at = (event) => pointerPosition(over, event);
  over.onpointerdown = (event) => {
    if (!data) return;
    over.setPointerCapture(event.pointerId);
    empty = under < 0 && root.matches(":focus-within"); // the first click only gives the map the focus
    pressed = under;
    if (lassos && !event.shiftKey) path = [at(event)];
    else moving = { x: event.clientX - zoom.x, y: event.clientY - zoom.y };
  };
  over.onpointermove = (event) => {
    if (!data) return;
    const here = at(event);
    if (path) {
      const [x, y] = path[path.length - 1];
      if (Math.hypot(here[0] - x, here[1] - y) > 4) path.push(here);
      under = -1;
    } else if (moving) { zoom.x = event.clientX - moving.x; zoom.y = event.clientY - moving.y; under = -1; }
    else under = nearest(here);
    paint();
  };
  over.onpointerup = () => {
    const loop = path, point = pressed;
    path = moving = null;
    pressed = -1;
    const corners = loop && simplified(loop);
    if (corners?.length > 2) pick(corners.map(toData));
    else if (loop && point >= 0) choose(null, [place(point)], true);
    else if (loop && empty && isSelected) pick(null);
  };
  over.onpointercancel = () => { path = moving = null; paint(); };
  over.onpointerleave = () => { under = -1; paint(); };
  over.onwheel = (event) => {
    if (!root.contains(el.getRootNode().activeElement)) return; // otherwise the page could not be scrolled here
    event.preventDefault();
    const [x, y] = at(event), least = Math.min(width, height) / 2;
    const k = Math.min(least * 400, Math.max(least, zoom.k * Math.exp(-event.deltaY / 400))), f = k / zoom.k;
    zoom = { x: x - f * (x - zoom.x), y: y - f * (y - zoom.y), k };
    paint();
  };
  onKey(root, (event) => {
    if (!data) return null;
    const resetZoom = () => { fit(); paint(); };
    const density = () => set({ density: !showsDensity() }), writesNames = () => set({ labels: !view.labels });
    return { l: () => lasso(!lassos), Escape: () => pick(null), 0: resetZoom, d: density, n: writesNames }[event.key];
  });

  async function load() {
    const current = ++generation, next = readJson(model, "data");
    if (next.n === undefined) return;
    const image = next.thumbs ? Object.assign(new Image(), { src: next.thumbs.sheet }) : null;
    await image?.decode();
    if (current !== generation) return; // newer data arrived while the image was decoded
    [data, sheet, under, bright] = [next, image, -1, -1];
    [xy, color, palette] = [decodeArray(data.xy, Uint16Array), decodeArray(data.color, Uint8Array), data.palette.map(parseColor)];
    names = data.names ? decodeArray(data.names, Int32Array) : null;
    places = data.places ? decodeArray(data.places, Int32Array) : null;
    values = data.values ? decodeArray(data.values, Float32Array) : null;
    near = cells(xy, data.n);
    const ends = extentOf(xy, data.n);
    if (ends.join() !== extent.join()) canvas.sized = false; // other points have to fit; other colors keep the zoom
    extent = ends;
    view = initialView();
    [contours, hits, search.value, matches.textContent] = [null, null, "", ""];
    over.setAttribute("aria-label", data.caption);
    caption.textContent = data.caption;
    pen.places(xy);
    key();
    placeLabels();
    select();
    measure();
  }
  function follow() {
    if (!data) return;
    const next = { ...view, polygon: null, ids: [], ...readJson(model, "view") };
    if (JSON.stringify(next) === JSON.stringify(view)) return;
    view = next;
    key();
    select();
    paint();
  }
  function measure() {
    if (!data || !plane.clientWidth) return;
    ratio = window.devicePixelRatio || 1;
    const changed = width !== plane.clientWidth || height !== plane.clientHeight || !canvas.sized;
    [width, height, canvas.sized] = [plane.clientWidth, plane.clientHeight, true];
    for (const layer of [canvas, over]) if (changed) Object.assign(layer, { width: width * ratio, height: height * ratio });
    if (changed) fit();
    paint();
  }
  brush?.subscribe(({ image = [] }) => { if (data) choose(null, image); });
  const stopObserving = observeModel(model, load, follow);
  const resized = new ResizeObserver(measure);
  resized.observe(plane);
  load();
  return () => {
    pen.end();
    resized.disconnect();
    stopObserving();
  };
}

export default { render };
