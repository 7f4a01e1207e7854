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
