// A plotly figure, as wide as its place. `data` is {figure, config}; drawn when it is seen, and again when it changes.
// Plotly is the page's own: nothing is fetched here.

export default {
  render({ model, el }) {
    const place = el.appendChild(document.createElement("div"));
    place.style.width = "100%";
    let drawn = "", queue = Promise.resolve();
    const draw = () => {
      const text = model.get("data");
      if (place.offsetWidth === 0) return; // in a tab that nobody looks at: the observer tells when somebody does
      if (text === drawn) return Plotly.Plots.resize(place);
      drawn = text;
      const { figure, config } = JSON.parse(text);
      return figure ? Plotly.react(place, figure.data, figure.layout, config) : Plotly.purge(place);
    };
    const soon = () => { queue = queue.then(draw); }; // one after the other: a drawing that overtakes another spoils both
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
