// A plotly figure as wide as its container. `data` is {figure, config}; it is drawn when it is visible and when it
// changes. Plotly is the page's own: nothing is fetched here. The `meta` of a trace is the kind of its customdata: run,
// image, code or perspective. `view` is {kind, id} of the point that was clicked last, or {kind, ids} of the points in a
// box or a lasso; a view that Python sets marks these points. Only ids are sent, never the points.

// Plotly writes its style rules into the page's head, which a shadow root does not see.
const plotlyRules = () => [...document.querySelectorAll("style[id^='plotly.js-style']")]
  .flatMap((style) => [...style.sheet.cssRules]).map((rule) => rule.cssText).join("\n");

const idOf = (customdata) => (typeof customdata === "object" ? customdata?.[0] : customdata);
const key = (ids) => JSON.stringify([...ids].sort());

export default {
  render({ model, el }) {
    const style = el.appendChild(document.createElement("style"));
    const place = el.appendChild(document.createElement("div"));
    place.style.width = "100%";
    let drawn = "", marked = key([]), own = "", busy = false, queue = Promise.resolve();
    const send = (view) => {
      model.set("view", JSON.stringify(view));
      model.save_changes();
    };
    const onClick = ({ points: [point] }) => {
      const kind = point.data.meta, id = idOf(point.customdata);
      if (kind && id !== undefined) send({ kind, id, at: Date.now() });
    };
    const onSelect = (event) => {
      const kind = place._fullData.find((trace) => trace.meta && trace.visible === true)?.meta;
      if (!kind || busy) return; // Plotly also reports selections while it draws
      const held = (event?.points ?? []).filter((point) => point.data.meta).map((point) => idOf(point.customdata));
      const ids = [...new Set(held)];
      if (key(ids) === marked) return;
      own = key(ids);
      send({ kind, ids });
      follow();
    };
    const mark = async () => {
      const { kind, ids } = JSON.parse(model.get("view"));
      if (!ids || !place._fullData || key(ids) === marked) return;
      marked = key(ids);
      const held = new Set(ids), points = place._fullData.map((trace) => {
        if (trace.meta !== kind || trace.type === "heatmap" || !held.size) return null;
        return Array.from(trace.customdata, idOf).flatMap((id, i) => (held.has(id) ? [i] : []));
      });
      await Plotly.update(place, { selectedpoints: points }, marked === own ? {} : { selections: [] });
    };
    const draw = async () => {
      const text = model.get("data");
      if (place.offsetWidth === 0) return; // hidden: the observer calls again once it is visible
      if (text === drawn) {
        if (place.layout) await Plotly.Plots.resize(place);
        return;
      }
      drawn = text;
      const { figure, config } = JSON.parse(text);
      if (!figure) {
        place.hasListeners = false;
        return Plotly.purge(place);
      }
      try {
        await Plotly.react(place, figure.data, figure.layout, withPdfButton(config));
      } catch (error) {
        drawn = "";
        if (place.offsetWidth > 0) throw error;
        return; // it was hidden while it was drawn
      }
      if (!place.hasListeners) {
        place.on("plotly_click", onClick);
        place.on("plotly_selected", onSelect);
        place.on("plotly_deselect", () => onSelect());
      }
      place.hasListeners = true;
      const rules = plotlyRules();
      if (style.textContent !== rules) style.textContent = rules;
      marked = key([]);
      await mark();
    };
    const enqueue = (act) => { // one after the other: overlapping drawings spoil each other
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
    const soon = () => enqueue(draw), follow = () => enqueue(mark);
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
