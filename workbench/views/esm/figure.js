// A plotly figure, as wide as its place. `data` is {figure, config}; drawn when it is seen, and again when it changes.
// Plotly is the page's own: nothing is fetched here. `view` is {kind, id} of the point that was clicked last, where its
// trace says as its `meta` what its customdata name: a run, an image or a code.

// Plotly writes its style rules into the page's head, which a shadow root does not see.
const rules = () => [...document.querySelectorAll("style[id^='plotly.js-style']")]
  .flatMap((style) => [...style.sheet.cssRules]).map((rule) => rule.cssText).join("\n");

export default {
  render({ model, el }) {
    const look = el.appendChild(document.createElement("style"));
    const place = el.appendChild(document.createElement("div"));
    place.style.width = "100%";
    let drawn = "", queue = Promise.resolve();
    const clicked = ({ points: [point] }) => {
      const kind = point.data.meta, told = point.customdata, id = typeof told === "object" ? told?.[0] : told;
      if (!kind || id === undefined) return;
      model.set("view", JSON.stringify({ kind, id, at: Date.now() }));
      model.save_changes();
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
      if (!place.heard) place.on("plotly_click", clicked);
      place.heard = true;
      const now = rules();
      if (look.textContent !== now) look.textContent = now;
    };
    const soon = () => { queue = queue.then(draw, draw); }; // one after the other: a drawing that overtakes another spoils both
    const sized = new ResizeObserver(soon);
    sized.observe(place);
    model.on("change:data", soon);
    return () => {
      sized.disconnect();
      model.off("change:data", soon);
      Plotly.purge(place);
    };
  },
};
