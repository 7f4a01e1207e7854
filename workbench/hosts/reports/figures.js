// Every figure of the page gets the button of pdf.js.
const newPlot = Plotly.newPlot;
Plotly.newPlot = (place, data, layout, config) => newPlot(place, data, layout, withPdfButton(config));
