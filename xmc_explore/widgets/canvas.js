// Draws which features each label reads: rows are labels, columns are features, colour is age.
// The model's `pixels` hold one byte a cell: 0 nothing, 1 there from the start, ..., 255 born at the last rewire.

const OLD = [128, 128, 128, 0.75];
const NEW = [204, 80, 160, 1];
const NEWBORN = 255;
const GAP = 6; // CSS pixels between bands; lab.css has the same
const DOT = 2; // least width and height of a connection
const FLASH = 900; // milliseconds

const PALETTE = Array.from({ length: 256 }, (_, value) => {
  const mix = OLD.map((old, i) => old + ((NEW[i] - old) * value) / NEWBORN);
  return `rgba(${mix.slice(0, 3).map(Math.round).join(",")},${mix[3].toFixed(3)})`;
});

function add(parent, tag, name) {
  const node = document.createElement(tag);
  node.className = name;
  parent.append(node);
  return node;
}

function render({ model, el }) {
  el.classList.add("xmc-connectivity");
  const field = add(el, "div", "xmc-field");
  const bands = add(field, "div", "xmc-bands");
  const canvas = add(field, "canvas", "xmc-canvas");
  canvas.setAttribute("role", "img");
  const legend = add(el, "div", "xmc-legend");
  const axis = add(legend, "span", "xmc-axis");
  const scale = add(legend, "span", "xmc-scale");
  scale.innerHTML = "old <i></i> new";
  scale.title = "From connections that are there from the start to those that the last rewire made";
  const caption = add(el, "div", "xmc-caption");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let frame = 0;

  // The y of a row, in CSS pixels: rows share the height that the gaps between bands leave.
  function rowTops(height) {
    const counts = model.get("bands").map((band) => band.rows);
    const total = counts.reduce((a, b) => a + b, 0);
    const each = (height - GAP * (counts.length - 1)) / total;
    const tops = [];
    counts.forEach((count, band) => {
      for (let i = 0; i < count; i++) tops.push(tops.length * each + band * GAP);
    });
    return { tops, each };
  }

  function draw(glow = 0) {
    const [rows, columns] = model.get("shape");
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!rows || !width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const pixels = model.get("pixels");
    const { tops, each } = rowTops(height);
    const wide = width / columns;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const value = pixels.getUint8(row * columns + column);
        if (!value) continue;
        pen.fillStyle = PALETTE[value];
        pen.fillRect(column * wide, tops[row], Math.max(wide, DOT), Math.max(each, DOT));
        if (glow && value === NEWBORN) {
          pen.globalAlpha = glow * 0.6;
          pen.fillRect(column * wide - 1.5, tops[row] - 1.5, wide + 3, each + 3);
          pen.globalAlpha = 1;
        }
      }
    }
  }

  function flash() {
    cancelAnimationFrame(frame);
    if (still.matches || !model.get("flash")) return draw();
    const start = performance.now();
    const next = (now) => {
      const left = 1 - (now - start) / FLASH;
      draw(Math.max(left, 0));
      if (left > 0) frame = requestAnimationFrame(next);
    };
    next(start);
  }

  function words() {
    const shown = model.get("shape")[0] > 0;
    field.hidden = legend.hidden = !shown;
    [axis.textContent, axis.title] = model.get("axis");
    caption.textContent = model.get("caption");
    canvas.setAttribute("aria-label", "Connectivity of the output layer. " + model.get("caption"));
    bands.replaceChildren();
    for (const band of model.get("bands")) {
      const strip = add(bands, "div", "xmc-band");
      strip.style.flexGrow = band.rows;
      strip.style.borderColor = band.color;
      add(strip, "b", "").textContent = band.name;
      const part = band.rows < band.labels ? `${band.rows} of ${band.labels.toLocaleString("en")}` : `all ${band.rows}`;
      add(strip, "span", "").textContent = part;
    }
  }

  canvas.addEventListener("mousemove", (event) => {
    const { tops } = rowTops(canvas.clientHeight);
    const row = tops.findLastIndex((top) => top <= event.offsetY);
    caption.textContent = model.get("rows")[row] ?? model.get("caption");
  });
  canvas.addEventListener("mouseleave", () => (caption.textContent = model.get("caption")));

  const changed = () => (words(), flash());
  const ticked = () => requestAnimationFrame(() => {
    model.set("seen", model.get("tick"));
    model.save_changes();
  });
  model.on("change:pixels", changed);
  model.on("change:caption", words);
  model.on("change:tick", ticked);
  // Plotly follows the window and no more; the laboratory also changes its size with Lab's side bar.
  const resized = new ResizeObserver(() => (draw(), window.dispatchEvent(new Event("resize"))));
  resized.observe(canvas);
  words();
  return () => {
    model.off("change:pixels", changed);
    model.off("change:caption", words);
    model.off("change:tick", ticked);
    resized.disconnect();
    cancelAnimationFrame(frame);
  };
}

export default { render };
