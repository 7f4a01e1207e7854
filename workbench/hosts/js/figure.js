// A plotly figure, as wide as its place. `data` is {figure, config}; drawn when it is seen, and again when it changes.
// Plotly is the page's own: nothing is fetched here. A trace says as its `meta` what its customdata name: a run, an image
// or a code. `view` is {kind, id} of the point that was clicked last, or {kind, ids} of those that a box or a lasso holds;
// told from Python, these are marked. Only names travel, never the points.

// Plotly writes its style rules into the page's head, which a shadow root does not see.
const rules = () => [...document.querySelectorAll("style[id^='plotly.js-style']")]
  .flatMap((style) => [...style.sheet.cssRules]).map((rule) => rule.cssText).join("\n");

const name = (told) => (typeof told === "object" ? told?.[0] : told);
const key = (ids) => JSON.stringify([...ids].sort());

export default {
  render({ model, el }) {
    const look = el.appendChild(document.createElement("style"));
    const place = el.appendChild(document.createElement("div"));
    place.style.width = "100%";
    let drawn = "", marked = key([]), own = "", busy = false, queue = Promise.resolve();
    const tell = (view) => {
      model.set("view", JSON.stringify(view));
      model.save_changes();
    };
    const clicked = ({ points: [point] }) => {
      const kind = point.data.meta, id = name(point.customdata);
      if (kind && id !== undefined) tell({ kind, id, at: Date.now() });
    };
    const selected = (event) => {
      const kind = place._fullData.find((trace) => trace.meta && trace.visible === true)?.meta;
      if (!kind || busy) return; // while we draw and mark, nobody selects
      const held = (event?.points ?? []).filter((point) => point.data.meta).map((point) => name(point.customdata));
      const ids = [...new Set(held)];
      if (key(ids) === marked) return;
      own = key(ids);
      tell({ kind, ids });
      follow();
    };
    const mark = async () => {
      const { kind, ids } = JSON.parse(model.get("view"));
      if (!ids || !place._fullData || key(ids) === marked) return;
      marked = key(ids);
      const held = new Set(ids), points = place._fullData.map((trace) => {
        if (trace.meta !== kind || trace.type === "heatmap" || !held.size) return null;
        return Array.from(trace.customdata, name).flatMap((id, i) => (held.has(id) ? [i] : []));
      });
      await Plotly.update(place, { selectedpoints: points }, marked === own ? {} : { selections: [] });
    };
    const draw = async () => {
      const text = model.get("data");
      if (place.offsetWidth === 0) return; // in a tab that nobody looks at: the observer tells when somebody does
      if (text === drawn) {
        if (place.layout) await Plotly.Plots.resize(place);
        return;
      }
      drawn = text;
      const { figure, config } = JSON.parse(text);
      if (!figure) {
        place.heard = false;
        return Plotly.purge(place);
      }
      try {
        await Plotly.react(place, figure.data, figure.layout, config);
      } catch (error) {
        drawn = "";
        if (place.offsetWidth > 0) throw error;
        return; // somebody turned away while it was drawn
      }
      if (!place.heard) {
        place.on("plotly_click", clicked);
        place.on("plotly_selected", selected);
        place.on("plotly_deselect", () => selected());
      }
      place.heard = true;
      const now = rules();
      if (look.textContent !== now) look.textContent = now;
      marked = key([]);
      await mark();
    };
    const after = (act) => { // one after the other: a drawing that overtakes another spoils both
      const alone = async () => {
        busy = true;
        try {
          await act();
        } finally {
          busy = false;
        }
      };
      queue = queue.then(alone, alone);
    };
    const soon = () => after(draw), follow = () => after(mark);
    const sized = new ResizeObserver(soon);
    sized.observe(place);
    model.on("change:data", soon);
    model.on("change:view", follow);
    return () => {
      sized.disconnect();
      model.off("change:data", soon);
      model.off("change:view", follow);
      Plotly.purge(place);
    };
  },
};
