// Printing: open folded parts and fit figures to the sheet, because paper neither unfolds nor scrolls.
(() => {
  const kind = document.body.dataset.template;
  const SHEET_WIDTH = ["brief", "views"].includes(kind) ? 1160 : 1040; // of <main> on paper, in CSS pixels; see report.css
  const LOW = 0.75; // height of a figure among views on paper, as a share of that on the screen
  const figures = () => document.querySelectorAll(".js-plotly-plot");
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not([open])").forEach((details) => {
      details.open = true;
      details.dataset.folded = "";
    });
    figures().forEach((figure) => {
      const isInColumns = ["brief", "views"].includes(kind);
      const width = isInColumns ? SHEET_WIDTH / 2 - 12 : SHEET_WIDTH;
      const { height } = figure.layout, isLow = height && kind === "views";
      if (isLow) figure.dataset.height = height;
      Plotly.relayout(figure, { width, autosize: false, ...(isLow && { height: LOW * height }) });
    });
  });
  addEventListener("afterprint", () => {
    document.querySelectorAll("details[data-folded]").forEach((details) => {
      details.open = false;
      delete details.dataset.folded;
    });
    figures().forEach((figure) => {
      const { height } = figure.dataset;
      delete figure.dataset.height;
      Plotly.relayout(figure, { width: null, autosize: true, ...(height && { height: Number(height) }) });
    });
  });
})();

// One selection (brush.js) for all figures, cards of images and modules. The `meta` of a trace is the kind of its points (image, code or
// run), and its `customdata` their ids. A lasso around points or a click on one selects them; points that are selected
// elsewhere on the page are marked.
(() => {
  const idOf = (entry) => (typeof entry === "object" ? entry?.[0] : entry);

  // A cell of the comparison of latent spaces leads to the section of its analysis, if the report has one.
  const openSection = (analysis) => {
    const heading = analysis.replaceAll("_", " ");
    const links = [...document.querySelectorAll("a[href^='#section-']")];
    links.find((link) => link.textContent.trim().toLowerCase() === heading)?.click();
  };

  const linkFigure = (container) => {
    const figure = container.querySelector(".js-plotly-plot");
    if (!figure?.data.some((trace) => trace.meta)) return;
    const channel = brush(document, JSON.parse(container.dataset.of));
    let updates = 0; // running updates by `mark`, whose events are not the user's

    const publish = (points) => {
      const idsByKind = {};
      for (const { data: { meta: kind }, customdata } of points) {
        if (kind) (idsByKind[kind] ??= new Set()).add(idOf(customdata));
      }
      const selection = Object.fromEntries(Object.entries(idsByKind).map(([kind, ids]) => [kind, [...ids]]));
      channel.publish(selection);
      return selection;
    };

    const mark = async (selection) => {
      const traces = figure._fullData.filter((trace) => trace.meta && trace.type.startsWith("scatter"));
      if (!traces.length) return;
      const selectedpoints = traces.map(({ meta, customdata }) => {
        const ids = new Set(selection[meta]);
        return ids.size ? [...customdata.keys()].filter((i) => ids.has(idOf(customdata[i]))) : null;
      });
      updates += 1;
      await Plotly.update(figure, { selectedpoints }, { selections: [] }, traces.map((trace) => trace.index));
      updates -= 1;
    };

    const onSelection = (event) => {
      if (updates) return;
      if (event?.points.length) publish(event.points);
      else mark(publish([]));
    };

    channel.subscribe(mark);
    figure.on("plotly_selected", onSelection);
    figure.on("plotly_deselect", onSelection);
    figure.on("plotly_click", ({ points }) => {
      const kind = points[0].data.meta;
      if (kind === "perspective") openSection(String(points[0].customdata).split(":")[0]);
      else if (kind) mark(publish(points));
    });
  };

  // A click on a card, or Enter, adds its image to the selection or removes it; selected images are outlined.
  const linkCards = (container) => {
    const cards = [...container.querySelectorAll("[data-image]")];
    const channel = brush(document, JSON.parse(container.dataset.of));
    const idOfCard = (card) => Number(card.dataset.image);
    let selected = new Set();

    const mark = ({ image }) => {
      selected = new Set(image);
      cards.forEach((card) => card.setAttribute("aria-selected", selected.has(idOfCard(card))));
    };

    const toggle = (event, id) => {
      event.stopPropagation(); // a picture with an image of its own may be on a card
      const ids = new Set(selected);
      if (!ids.delete(id)) ids.add(id);
      mark({ image: [...ids] });
      channel.publish(ids.size ? { image: [...ids] } : {});
    };

    channel.subscribe(mark);
    cards.forEach((card) => {
      Object.assign(card, { tabIndex: 0, title: "Select this image, or deselect it" });
      card.style.cursor = "pointer";
      card.addEventListener("click", (event) => toggle(event, idOfCard(card)));
      card.addEventListener("keydown", (event) => { if (event.key === "Enter") toggle(event, idOfCard(card)); });
    });
  };

  const page = brush(document, {});
  addEventListener("keydown", (event) => { if (event.key === "Escape") page.publish({}); });
  document.querySelectorAll("figure[data-of]").forEach(linkFigure);
  document.querySelectorAll("div[data-of]").forEach(linkCards);
})();
