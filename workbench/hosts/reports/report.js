// On paper nothing can be unfolded or scrolled: open what is folded, and fit the figures to the sheet.
(() => {
  const SHEET = 1040; // width of <main> on paper, in its own pixels: see report.css
  const figures = () => document.querySelectorAll(".js-plotly-plot");
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not([open])").forEach((d) => { d.open = true; d.dataset.folded = ""; });
    figures().forEach((f) => { Plotly.relayout(f, { width: SHEET, autosize: false }); });
  });
  addEventListener("afterprint", () => {
    document.querySelectorAll("details[data-folded]").forEach((d) => { d.open = false; delete d.dataset.folded; });
    figures().forEach((f) => { Plotly.relayout(f, { width: null, autosize: true }); });
  });
})();
// One selection (brush.js) for figures and modules. A trace's `meta` says what its points are, image, code or run, and
// its customdata which: a loop around some or a click on one selects them, and they are marked when others select them.
(() => {
  const first = (told) => (typeof told === "object" ? told?.[0] : told);
  const everywhere = brush(document, {});
  addEventListener("keydown", (event) => { if (event.key === "Escape") everywhere.say({}); });
  document.querySelectorAll("figure[data-of]").forEach((place) => {
    const figure = place.querySelector(".js-plotly-plot"), { say, hear } = brush(document, JSON.parse(place.dataset.of));
    if (!figure?.data.some((trace) => trace.meta)) return;
    let marking = 0; // what plotly tells of that itself is no news
    const tell = (points) => {
      const told = {};
      for (const { data: { meta }, customdata } of points) if (meta) (told[meta] ??= new Set()).add(first(customdata));
      const lists = Object.fromEntries(Object.entries(told).map(([kind, ids]) => [kind, [...ids]]));
      say(lists);
      return lists;
    };
    const mark = async (told) => {
      const traces = figure._fullData.filter((trace) => trace.meta && trace.type.startsWith("scatter"));
      const selectedpoints = traces.map(({ meta, customdata }) => {
        const wanted = new Set(told[meta]);
        return wanted.size ? [...customdata.keys()].filter((i) => wanted.has(first(customdata[i]))) : null;
      });
      if (!traces.length) return;
      marking += 1;
      await Plotly.update(figure, { selectedpoints }, { selections: [] }, traces.map((trace) => trace.index));
      marking -= 1;
    };
    hear(mark);
    const chosen = (event) => {
      if (marking) return;
      if (event?.points.length) tell(event.points);
      else mark(tell([]));
    };
    figure.on("plotly_selected", chosen);
    figure.on("plotly_deselect", chosen);
    figure.on("plotly_click", ({ points }) => { if (points[0].data.meta) mark(tell(points)); });
  });
})();
