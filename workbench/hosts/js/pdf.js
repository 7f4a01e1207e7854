// A button of a figure's bar that saves the figure as a PDF of one page: a picture with three times as many pixels as on
// the screen, in the size that it has there. figure.js and the page of a report come after it. Nothing is fetched.

const PDF_SCALE = 3, POINTS_PER_PIXEL = 0.75;

const backgroundOf = (place) => {
  for (let node = place; node; node = node.parentElement ?? node.getRootNode().host) {
    const color = getComputedStyle(node).backgroundColor;
    if (color && color !== "transparent" && !/, 0\)$/.test(color)) return color;
  }
  return "#ffffff";
};

// The picture of a figure as JPEG, which has no transparent pixels.
const pictureOf = async (place) => {
  const { width, height } = place._fullLayout, picture = new Image();
  picture.src = await Plotly.toImage(place, { format: "png", width, height, scale: PDF_SCALE });
  await picture.decode();
  const canvas = document.createElement("canvas"), { naturalWidth, naturalHeight } = picture;
  Object.assign(canvas, { width: naturalWidth, height: naturalHeight });
  const context = canvas.getContext("2d");
  context.fillStyle = backgroundOf(place);
  context.fillRect(0, 0, naturalWidth, naturalHeight);
  context.drawImage(picture, 0, 0);
  const jpeg = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return { bytes: new Uint8Array(await jpeg.arrayBuffer()), width: naturalWidth, height: naturalHeight };
};

const pdfOf = ({ bytes, width, height }) => {
  const parts = [], encoder = new TextEncoder(), offsets = [];
  let length = 0;
  const write = (part) => {
    const data = typeof part === "string" ? encoder.encode(part) : part;
    parts.push(data);
    length += data.length;
  };
  const object = (head, stream) => {
    offsets.push(length);
    const size = stream === undefined ? "" : ` /Length ${stream.length}`;
    write(`${offsets.length} 0 obj\n<< ${head}${size} >>\n`);
    if (stream !== undefined) [`stream\n`, stream, `\nendstream\n`].forEach(write);
    write("endobj\n");
  };
  const [wide, high] = [width, height].map((pixels) => ((pixels * POINTS_PER_PIXEL) / PDF_SCALE).toFixed(2));
  write("%PDF-1.4\n");
  object("/Type /Catalog /Pages 2 0 R");
  object("/Type /Pages /Kids [3 0 R] /Count 1");
  object(`/Type /Page /Parent 2 0 R /MediaBox [0 0 ${wide} ${high}] /Contents 5 0 R /Resources << /XObject << /I 4 0 R >> >>`);
  const image = `/Width ${width} /Height ${height} /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /DCTDecode`;
  object(`/Type /XObject /Subtype /Image ${image}`, bytes);
  object("", `q ${wide} 0 0 ${high} 0 0 cm /I Do Q`);
  const table = length, rows = offsets.map((offset) => `${String(offset).padStart(10, "0")} 00000 n \n`).join("");
  write(`xref\n0 ${offsets.length + 1}\n0000000000 65535 f \n${rows}`);
  write(`trailer\n<< /Size ${offsets.length + 1} /Root 1 0 R >>\nstartxref\n${table}\n%%EOF\n`);
  return new Blob(parts, { type: "application/pdf" });
};

const savePdf = async (place) => {
  const title = (place.layout.title?.text ?? "figure").replace(/<[^>]*>/g, " ").replace(/[^\p{L}\p{N}]+/gu, "-");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(pdfOf(await pictureOf(place)));
  link.download = `${title.slice(0, 60).replace(/^-|-$/g, "")}.pdf`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};

const withPdfButton = (config = {}) => {
  const button = { name: "Download figure as PDF", icon: Plotly.Icons.disk, click: savePdf };
  return { ...config, modeBarButtonsToAdd: [...(config.modeBarButtonsToAdd ?? []), button] };
};
