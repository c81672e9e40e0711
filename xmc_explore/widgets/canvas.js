// Draws which features each label reads: rows are labels, columns are features. What is in sight, pointed at and lit up
// is decided here, without the kernel. canvas.py puts canvas_message.js and canvas_draw.js in front of this file.

const FLASH = 900, GLOW = 75; // milliseconds; from one picture of it to the next, for each takes what also answers
const ROW = 16, COLUMN = 16; // CSS pixels of a row and of a column at most: no closer than this
const NAMED = 11.5; // CSS pixels from which on rows have their names beside them
const TYPE = 13; // CSS pixels: with type of another size, ROW and NAMED are as much larger
const PLAY = 125; // milliseconds from one frame to the next, at least
const FULL = [0, 1, 0, 1];
const KEYS = [
  ["← →", "one frame back, one on"], ["Home End", "first frame, last frame"], ["Space", "play or pause"],
  ["↑ ↓", "point at the label above, below"], ["Enter, click", "pin the label, or let it go"],
  ["Esc", "let go of the label, then of the bin"], ["+ −, wheel", "closer, farther"], ["0", "everything"],
  ["Shift + arrows, drag", "move what is in sight"], ["1 2 3, Shift + drag", "head, torso or tail alone"],
  ["C", "next colouring"], ["O", "next order of the rows"], ["B", "bands of equal height, or by number of labels"],
  ["?", "this list"],
];
const ORDERS = { frequency: "by frequency", cluster: "by cluster", "in-degree": "by in-degree" };
const COLORS = { age: "age", weight: "weight", change: "born, died" };
const TIPS = {
  frequency: "In each bin the most frequent label is on top",
  cluster: "In each bin, labels that read the same features stand together",
  "in-degree": "Features that most labels read are on the left, labels that read such features on top of their bin",
};

function add(parent, tag, name, attributes = {}) {
  const node = document.createElement(tag);
  node.className = name;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

const count = (n) => n.toLocaleString("en");

function isDark() { // of the page: what is rendered here may not be on it yet
  const probe = add(document.body, "i", "");
  probe.style.color = getComputedStyle(document.body).getPropertyValue("--jp-layout-color0").trim() || "#fff";
  const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
  probe.remove();
  return 0.3 * r + 0.6 * g + 0.1 * b < 128;
}

function render({ model, el }) {
  // --- the page
  el.classList.add("xmc-connectivity");
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // or Lab takes B and C for cells
  const main = add(el, "div", "xmc-main");
  const tools = add(main, "div", "xmc-tools");
  const field = add(main, "div", "xmc-field");
  const gutter = add(field, "div", "xmc-bands");
  const stage = add(field, "div", "xmc-stage", { tabindex: 0, role: "application",
    "aria-roledescription": "picture to explore", "aria-label": "Connectivity; question mark lists the keys" });
  const canvas = add(stage, "canvas", "xmc-canvas", { role: "img" });
  const marks = add(stage, "canvas", "xmc-marks", { "aria-hidden": "true" });
  const legend = add(main, "div", "xmc-legend");
  const axis = add(legend, "span", "xmc-axis");
  const scale = add(legend, "span", "xmc-scale");
  const transport = add(main, "div", "xmc-transport");
  const words = add(main, "div", "xmc-words");
  const caption = add(words, "div", "xmc-caption", { "aria-live": "polite" });
  const detail = add(model.get("panel") === "side" ? el : words, "div", "xmc-detail");
  const spoken = add(el, "div", "xmc-unseen", { "aria-live": "polite" }); // of a label reached by keyboard
  const help = add(el, "div", "xmc-help", { role: "dialog", "aria-label": "Keys", tabindex: -1, hidden: "" });
  el.dataset.panel = model.get("panel");

  const choose = (name, words, tip) => {
    const box = add(tools, "label", "");
    box.append(tip.label);
    const select = add(box, "select", "", { "aria-label": tip.title, title: tip.title });
    for (const [value, text] of Object.entries(words)) add(select, "option", "", { value }).textContent = text;
    select.addEventListener("change", () => send({ [name]: select.value }));
    return select;
  };
  const button = (parent, text, title, press) => {
    const node = add(parent, "button", "", { type: "button", title, "aria-label": title });
    node.textContent = text;
    node.addEventListener("click", press);
    return node;
  };
  const color = choose("color", COLORS, { label: "colour ", title: "What the colour of a connection says" });
  const order = choose("order", ORDERS, { label: "rows ", title: "Order of the rows in each bin" });
  add(tools, "span", "xmc-between");
  button(tools, "−", "Farther", () => zoom(0.5));
  button(tools, "+", "Closer", () => zoom(2));
  button(tools, "⤢", "Everything", () => look(FULL));
  button(tools, "?", "Keys", () => toggleHelp());
  const play = button(transport, "▶", "Play", () => send({ playing: !model.get("playing") }));
  const slider = add(transport, "input", "", { type: "range", min: 0, step: 1, "aria-label": "Frame" });
  const where = add(transport, "output", "");
  help.innerHTML = "<b>Keys, while the picture has the focus</b>";
  const list = add(help, "dl", "");
  for (const [keys, what] of KEYS) {
    add(list, "dt", "").textContent = keys;
    add(list, "dd", "").textContent = what;
  }
  button(help, "Close", "Close the list of keys", () => toggleHelp(false));

  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let picture = null, past = null; // what the kernel has sent: the connections, and the pinned label's history
  let tops = new Float64Array(0), bottoms = tops; // of each row, as shares of the whole height
  let equal = true; // bands of equal height
  let colors = palettes(isDark());
  let pointed = -1; // the row pointed at
  let glowing = 0, playing = 0; // the animation under way

  let closed = false; // by the kernel: whoever then says something is answered with an error in the console
  const send = (traits) => {
    if (closed) return;
    for (const [name, value] of Object.entries(traits)) model.set(name, value);
    model.save_changes();
  };
  const later = (wait, act) => {
    let timer = 0;
    const start = () => (clearTimeout(timer), (timer = setTimeout(act, wait)));
    start.stop = () => clearTimeout(timer);
    return start;
  };

  // --- where things are. A row's place is a share of the height of everything; `view` says which part is in sight.

  function edges() {
    const bands = model.get("bands");
    const total = bands.reduce((sum, band) => sum + band.rows, 0);
    let row = 0, top = 0;
    return bands.map((band) => {
      const found = { ...band, row, top, height: equal ? 1 / bands.length : band.rows / total };
      row += band.rows;
      top += found.height;
      return found;
    });
  }

  function placeRows() {
    const bands = edges();
    const n = picture && bands.length ? picture.labels.length : 0;
    tops = new Float64Array(n);
    bottoms = new Float64Array(n);
    let band = 0;
    for (let row = 0; row < n; row++) {
      const place = picture.places[row];
      while (band < bands.length - 1 && place >= bands[band + 1].row) band += 1;
      const { top, height, rows, row: first } = bands[band];
      tops[row] = top + ((place - first) / rows) * height;
      const next = row + 1 < n ? Math.min(picture.places[row + 1], first + rows) : first + rows;
      bottoms[row] = top + ((next - first) / rows) * height; // a row stands for those that were left out after it
    }
  }

  function rowAt(share) { // the last row whose top is above
    let low = 0, high = tops.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (tops[middle] <= share) low = middle;
      else high = middle - 1;
    }
    return tops.length ? low : -1;
  }

  const bandOf = (row) => edges().findLast((band) => band.row <= picture.places[row]);
  const rowOf = (label) => (picture && label >= 0 ? picture.labels.indexOf(label) : -1);
  const yOf = (share, height) => {
    const [top, bottom] = model.get("view");
    return ((share - top) / (bottom - top)) * height;
  };
  const columnOf = (feature) => picture.columns[feature];

  // --- zoom and pan

  const saveView = later(150, () => closed || (model.save_changes(), askForRows()));

  function look([top, bottom, left, right]) {
    const tall = Math.min(bottom - top, 1), wide = Math.min(right - left, 1);
    top = clamp(top, 0, 1 - tall);
    left = clamp(left, 0, 1 - wide);
    model.set("view", [top, top + tall, left, left + wide]);
    saveView();
  }

  // Rows first: a row is of use only as a whole. Columns come closer when rows are as high as a row needs to be.
  function zoom(factor, y = 0.5, x = 0.5, columnsOnly = false) {
    if (!picture) return;
    const [top, bottom, left, right] = model.get("view");
    const at = top + y * (bottom - top);
    const band = edges().findLast((b) => b.top <= at) ?? edges()[0];
    const least = { rows: Math.min(1, (canvas.clientHeight * band.height) / (large * ROW * band.rows)),
      columns: Math.min(1, canvas.clientWidth / (COLUMN * picture.width)) };
    let tall = bottom - top, wide = right - left;
    const closeRows = !columnsOnly && (factor > 1 ? tall > least.rows * 1.001 : wide > 0.999);
    if (closeRows) tall = clamp(tall / factor, least.rows, 1);
    else wide = clamp(wide / factor, least.columns, 1);
    const start = left + x * (right - left - wide);
    look([at - y * tall, at + (1 - y) * tall, start, start + wide]);
  }

  function move(down, across) {
    const [top, bottom, left, right] = model.get("view");
    const dy = down * (bottom - top), dx = across * (right - left);
    look([top + dy, bottom + dy, left + dx, right + dx]);
  }

  function askForRows() { // where rows were left out for their number, those in sight are fetched
    const all = edges().reduce((sum, band) => sum + band.rows, 0);
    if (!picture || picture.labels.length >= all) return;
    const [top, bottom] = model.get("view");
    const last = rowAt(bottom), first = rowAt(top);
    const from = picture.places[first], to = (picture.places[last + 1] ?? all);
    const [low, high] = model.get("window");
    const loaded = last + 1 - first;
    if (loaded < to - from && (from < low || to > high || (high - low) > 3 * (to - from))) {
      const margin = Math.ceil((to - from) / 2);
      send({ window: [Math.max(0, from - margin), Math.min(all, to + margin)] });
    }
  }

  // --- drawing

  const raster = new Raster();
  let measured = null; // by the observer: to ask for a size while words change makes the browser lay out all of Lab
  let large = 1; // how much larger than TYPE the type is, by the observer too
  const size = () => measured ?? [canvas.clientWidth, canvas.clientHeight];
  const coloring = () => (picture.pair ? "pair" : model.get("color"));
  const isLoud = () => coloring() === "change";

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = size().map((pixels) => Math.round(pixels * ratio));
    if (!picture || !width || !height || !picture.labels.length) return;
    for (const node of [canvas, marks]) {
      if (node.width !== width || node.height !== height) [node.width, node.height] = [width, height];
    }
    const view = model.get("view"), [top, bottom] = view, color = coloring();
    const sight = { first: rowAt(top), last: rowAt(bottom - 1e-12), tops, bottoms };
    picture.levels[color] ??= levelsOf(picture, color);
    raster.resize(width, height);
    raster.fill(picture, picture.levels[color], sight, view, { ratio, loud: isLoud() });
    const pen = canvas.getContext("2d"), brushed = model.get("brushed");
    const line = (share) => clamp(Math.round((share - top) * raster.scale), 0, height);
    raster.paint(pen, colors[color], edges().map((band) => ({
      from: line(band.top), to: line(band.top + band.height), rows: band.rows / (band.height * raster.scale),
      dim: brushed && brushed !== band.name ? 0.18 : 1,
    })), isLoud());
    mark();
  }

  // What lies over the picture: the pinned row, the row pointed at, what is in sight of the whole.
  function mark(glow = 0) {
    const pen = marks.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = marks;
    pen.clearRect(0, 0, width, height);
    if (!picture) return;
    if (glow > 0) {
      pen.globalAlpha = glow;
      pen.drawImage(lit, 0, 0);
      pen.globalAlpha = 1;
    }
    const [top, bottom, left, right] = model.get("view");
    const pinned = rowOf(model.get("pinned"));
    for (const [row, line] of [[pointed, 1], [pinned, 2]]) {
      if (row < 0) continue;
      const y = yOf(tops[row], height), tall = Math.max(yOf(bottoms[row], height) - y, 3 * ratio);
      if (y + tall < 0 || y > height) continue;
      pen.strokeStyle = colors.ink;
      pen.lineWidth = line * ratio;
      pen.globalAlpha = line === 2 ? 0.9 : 0.55;
      pen.strokeRect(line * ratio / 2, y - ratio, width - line * ratio, tall + 2 * ratio);
      if (line === 2 && tall < 8 * ratio) { // its connections would be too small to follow
        pen.fillStyle = colors.ink;
        for (let slot = row * picture.fan_in; slot < (row + 1) * picture.fan_in; slot++) {
          if (picture.features[slot] >= picture.width) continue;
          const x = (columnOf(picture.features[slot]) / picture.width - left) / (right - left) * width;
          pen.fillRect(x - ratio, y - 4 * ratio, 2 * ratio, 3 * ratio);
        }
      }
      pen.globalAlpha = 1;
    }
    pen.fillStyle = colors.ink;
    pen.globalAlpha = 0.45;
    const tall = Math.max((bottom - top) * height, 6 * ratio), wide = Math.max((right - left) * width, 6 * ratio);
    if (bottom - top < 0.999) pen.fillRect(width - 4 * ratio, top * height, 3 * ratio, tall);
    if (right - left < 0.999) pen.fillRect(left * width, height - 4 * ratio, wide, 3 * ratio);
    pen.globalAlpha = 1;
  }

  // --- what was just born lights up, and fades
  const lit = document.createElement("canvas");

  function flash() {
    cancelAnimationFrame(glowing);
    if (still.matches || !model.get("flash") || !picture || picture.pair || !canvas.width) return;
    const newborn = NEWBORN[coloring()];
    if (newborn === undefined) return;
    const { width, height } = canvas;
    [lit.width, lit.height] = [width, height];
    const pen = lit.getContext("2d");
    const image = pen.createImageData(width, height);
    const ink = new Uint32Array(image.data.buffer);
    const [r, g, b] = colors[coloring()][newborn].map(Math.round);
    for (let i = 0; i < ink.length; i++) {
      if (raster.best[i] !== newborn) continue;
      for (const j of [i, i - 1, i + 1, i - width, i + width]) ink[j] = (140 << 24) | (b << 16) | (g << 8) | r;
    }
    pen.putImageData(image, 0, 0);
    const start = performance.now();
    let drawn = 0;
    const next = (now) => {
      const left = 1 - (now - start) / FLASH;
      if (left <= 0 || now - drawn >= GLOW) {
        mark(Math.max(left, 0));
        drawn = now;
      }
      if (left > 0) glowing = requestAnimationFrame(next);
    };
    next(start);
  }

  // --- words

  function say() {
    const shown = picture !== null;
    main.classList.toggle("xmc-empty", !shown);
    caption.textContent = model.get("caption").replaceAll(" %", "\u00a0%");
    caption.setAttribute("aria-live", model.get("playing") ? "off" : "polite");
    canvas.setAttribute("aria-label", "Connectivity of the output layer. " + model.get("caption"));
    const frames = model.get("frames");
    transport.hidden = !model.get("transport") || frames < 2;
    slider.max = Math.max(frames - 1, 0);
    if (document.activeElement !== slider || model.get("playing")) slider.value = model.get("frame");
    const runs = model.get("playing");
    play.textContent = runs ? "❚❚" : "▶"; // more fonts have two bars than the sign for pause
    play.title = runs ? "Pause" : "Play";
    play.setAttribute("aria-label", play.title);
    const of = Math.max(frames, 1);
    if (shown) where.textContent = `frame ${picture.number + 1} of ${of} · step ${count(picture.step)}`;
    color.value = model.get("color");
    order.value = model.get("order");
    order.title = TIPS[order.value];
    if (shown) {
      color.parentElement.hidden = picture.pair !== null; // the legend says what is coloured how
      scaleWords();
      axisWords();
      bandWords();
    }
    describe();
  }

  function scaleWords() {
    const paint = colors[coloring()];
    const spot = (level, name) => `<i class="${name}" style="--ink:${css(paint[level])}"></i>`;
    const strip = (...levels) => `<i class="xmc-strip" style="background:linear-gradient(90deg,` +
      `${levels.map((level) => css(paint[level]))})"></i>`;
    if (picture.pair) {
      scale.replaceChildren();
      const [a, b] = picture.pair;
      for (const [level, name, text] of [[2, "xmc-upper", a], [3, "xmc-lower", b], [1, "xmc-spot", "both"]]) {
        scale.insertAdjacentHTML("beforeend", spot(level, name));
        scale.append(` ${text} `);
      }
      scale.title = `Connections that only ${a} has, that only ${b} has, and that both have`;
    } else if (model.get("color") === "weight") {
      const largest = picture.weight && picture.largest.toPrecision(2);
      scale.innerHTML = largest ? `−${largest} ${strip(255, 1, 254)} +${largest}` : "no weights were recorded";
      scale.title = picture.weight ? `Weights as recorded at step ${count(picture.weight_step)}` : "";
    } else if (model.get("color") === "change") {
      scale.innerHTML = `${spot(3, "xmc-spot")} born ${spot(2, "xmc-hollow")} died ${spot(1, "xmc-spot")} stayed`;
      scale.title = "At the rewire that this frame follows";
    } else {
      scale.innerHTML = `old ${strip(1, 128, 255)} new`;
      scale.title = "From connections that are there from the start to those that the last rewire made";
    }
  }

  function axisWords() {
    const [top, bottom, left, right] = model.get("view");
    const first = Math.floor(left * picture.width + 0.01), last = Math.ceil(right * picture.width - 0.01);
    const rows = bottom - top > 0.999 ? "" : `${count(rowAt(bottom - 1e-12) - rowAt(top) + 1)} labels, `;
    axis.textContent = rows + (right - left > 0.999 ? `${count(picture.width)} features`
      : `features ${count(first)} to ${count(last - 1)} of ${count(picture.width)}`);
    axis.title = order.value === "frequency" ? "What the output layer reads, as it is numbered"
      : "What the output layer reads, sorted like the rows";
  }

  let worded = []; // what the words beside the picture were made of

  function bandWords() {
    const height = size()[1], [top, bottom] = model.get("view");
    const brushed = model.get("brushed");
    const of = [height, large, top, bottom, brushed, equal, model.get("bands"), model.get("names"), tops];
    if (of.every((what, i) => what === worded[i])) return;
    worded = of;
    const tall = (row) => yOf(bottoms[row], height) - yOf(tops[row], height);
    let some = false; // rows that have room for their names
    gutter.replaceChildren();
    for (const band of edges()) {
      const from = clamp(yOf(band.top, height), 0, height), to = clamp(yOf(band.top + band.height, height), 0, height);
      if (to - from < 2) continue;
      const strip = add(gutter, "button", "xmc-band", { type: "button", "aria-pressed": brushed === band.name,
        title: `Show ${band.name} labels alone` });
      Object.assign(strip.style, { top: `${from}px`, height: `${to - from - 1}px`, borderColor: band.color });
      strip.classList.toggle("xmc-away", Boolean(brushed) && brushed !== band.name);
      const middle = (Math.max(band.top, top) + Math.min(band.top + band.height, bottom)) / 2;
      const named = picture.labels.length > 0 && tall(rowAt(middle)) >= large * NAMED;
      some ||= named;
      if (named) strip.setAttribute("aria-label", `${band.name}, ${count(band.rows)} labels`);
      else {
        add(strip, "b", "").textContent = band.name;
        if (to - from > 40) add(strip, "span", "").textContent = `${count(band.rows)} labels`;
      }
      strip.addEventListener("click", () => brush(band.name));
    }
    if (!some) return;
    for (let row = rowAt(top); row <= rowAt(bottom - 1e-12); row++) {
      const y = yOf(tops[row], height), middle = y + tall(row) / 2;
      if (tall(row) < large * NAMED || middle < 4 || middle > height - 4) continue;
      const name = add(gutter, "span", "xmc-row");
      add(name, "bdi", "").textContent = model.get("names")[row] ?? "";
      Object.assign(name.style, { top: `${y}px`, height: `${tall(row)}px`, lineHeight: `${tall(row)}px` });
    }
  }

  function describe() {
    const pinned = rowOf(model.get("pinned"));
    const row = pointed >= 0 ? pointed : pinned;
    const side = model.get("panel") === "side";
    words.classList.toggle("xmc-pointing", !side && picture !== null && row >= 0);
    detail.replaceChildren();
    if (!picture || row < 0) {
      if (side) add(detail, "p", "xmc-hint").textContent = "Point at a row to see its label; click pins it.";
      return;
    }
    const head = add(detail, "div", "xmc-who");
    add(head, "b", "").textContent = model.get("names")[row] ?? `label ${picture.labels[row]}`;
    add(head, "span", "").textContent = about(row);
    add(detail, "div", "xmc-reads").textContent = reads(row);
    if (side && pinned >= 0 && row === pinned && past) drawHistory(detail);
  }

  function about(row) {
    const n = picture.frequency[row], bin = bandOf(row).name, used = `used ${count(n)} ${n === 1 ? "time" : "times"}`;
    const scores = Object.entries(model.get("scores")).map(([name, values]) => // none: of who was in no top 5, say
      `${name} ${typeof values[row] === "number" ? `${values[row].toFixed(1)}\u00a0%` : "none"}`).join(" · ");
    const told = scores && scores + model.get("scored");
    // Of two runs what differs comes first: a line in large type has no room for all of it.
    return ` ${(picture.pair ? [bin, told, used] : [`${bin}, ${used}`, told]).filter(Boolean).join(" · ")}`;
  }

  function reads(row) {
    const slots = Array.from({ length: picture.fan_in }, (_, k) => row * picture.fan_in + k)
      .filter((slot) => picture.features[slot] < picture.width && (!picture.pair || picture.values[slot]));
    if (!slots.length) return "reads every feature: a label of the dense head";
    const now = picture.step;
    const listed = (chosen) => chosen.map((slot) => picture.features[slot]).sort((a, b) => a - b).join(" ");
    const part = (text, chosen) => (chosen.length ? `${text} ${listed(chosen)}` : "");
    const fresh = slots.filter((slot) => picture.step && picture.values[slot] === now);
    const first = slots.filter((slot) => picture.values[slot] === 0).length;
    // Where there is no room to draw what became of them, words say it, in few of them so that the features fit, too.
    const side = model.get("panel") === "side";
    const past = side || !now ? [] : [`${first} of ${slots.length} from step 0`, fresh.length ? "" : "none new"];
    const groups = picture.pair
      ? [["both read", 3], [`only ${picture.pair[0]}`, 1], [`only ${picture.pair[1]}`, 2]]
        .map(([text, value]) => part(text, slots.filter((slot) => picture.values[slot] === value)))
      : [...past, part(side ? `new at step ${count(now)}:` : "new", fresh),
        part(side || !now ? "reads" : "kept", slots.filter((slot) => !fresh.includes(slot)))];
    return groups.filter(Boolean).join(" · ");
  }

  // Every frame is a line, the earliest on top: a connection that lives long is a long stroke.
  function drawHistory(parent) {
    const box = add(parent, "figure", "xmc-history");
    const sheet = add(box, "canvas", "", { role: "img" });
    const wide = 220, tall = 150, ratio = window.devicePixelRatio || 1;
    [sheet.width, sheet.height] = [wide * ratio, tall * ratio];
    const pen = sheet.getContext("2d");
    pen.scale(ratio, ratio);
    const { frames, features } = past, fanIn = features.length / frames;
    const each = tall / frames, column = wide / picture.width;
    const paint = colors.age;
    let moves = 0;
    for (let k = 0; k < fanIn; k++) {
      for (let from = 0, frame = 1; frame <= frames; frame++) {
        const feature = features[from * fanIn + k];
        if (frame < frames && features[frame * fanIn + k] === feature) continue;
        if (feature < picture.width) {
          pen.fillStyle = css(paint[from === 0 ? 1 : Math.round(60 + (195 * from) / frames)]);
          const lived = Math.max((frame - from) * each - 0.4, 0.6);
          pen.fillRect(columnOf(feature) * column, from * each, Math.max(column, 1.5), lived);
        }
        if (frame < frames) moves += 1;
        from = frame;
      }
    }
    pen.fillStyle = colors.ink;
    pen.fillRect(0, picture.number * each, wide, 1);
    const text = `Its ${count(frames)} frames from top to bottom: ${count(moves)} connections replaced. ` +
      "The line is this frame.";
    sheet.setAttribute("aria-label", text);
    add(box, "figcaption", "").textContent = text;
  }

  // --- pointing, pinning, brushing

  const tellHovered = later(80, () => send({ hovered: pointed < 0 ? -1 : picture.labels[pointed] }));

  function point(row) {
    if (row === pointed) return;
    pointed = row;
    mark();
    describe();
    tellHovered();
  }

  function pin(row) {
    const label = row < 0 ? -1 : picture.labels[row];
    send({ pinned: label === model.get("pinned") ? -1 : label });
  }

  const brush = (name) => send({ brushed: model.get("brushed") === name ? "" : name });

  function toggleHelp(open = help.hidden) {
    help.hidden = !open;
    (open ? help : stage).focus({ preventScroll: true });
  }

  const pointers = new Map(); // those that are down, by their number
  let press = null; // where the first of them went down, and what it has become

  const spotOf = (event) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return { x: clamp(x, 0, 1), y: clamp(y, 0, 1) };
  };
  const rowUnder = ({ y }) => {
    const [top, bottom] = model.get("view");
    return rowAt(top + y * (bottom - top));
  };

  stage.addEventListener("pointerdown", (event) => {
    if (!picture || event.button) return;
    const spot = spotOf(event);
    pointers.set(event.pointerId, spot);
    stage.setPointerCapture(event.pointerId);
    press = { spot, view: model.get("view"), shift: event.shiftKey, moved: pointers.size > 1, apart: apart() };
  });
  const apart = () => {
    const [a, b] = [...pointers.values()];
    return b ? Math.max(Math.hypot(a.x - b.x, a.y - b.y), 0.02) : 0;
  };
  stage.addEventListener("pointermove", (event) => {
    if (!picture) return;
    const spot = spotOf(event);
    if (!pointers.has(event.pointerId)) return point(rowUnder(spot));
    const before = apart();
    pointers.set(event.pointerId, spot);
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()];
      return zoom(apart() / before, (a.y + b.y) / 2, (a.x + b.x) / 2);
    }
    const down = press.spot.y - spot.y, across = press.spot.x - spot.x;
    if (!press.moved && Math.hypot(across * canvas.clientWidth, down * canvas.clientHeight) < 4) return;
    press.moved = true;
    if (press.shift) return;
    const [top, bottom, left, right] = press.view;
    const dy = down * (bottom - top), dx = across * (right - left);
    look([top + dy, bottom + dy, left + dx, right + dx]);
  });
  const released = (event) => {
    if (!pointers.delete(event.pointerId) || !press) return;
    const spot = spotOf(event);
    if (event.type === "pointerup" && !press.moved) pin(rowUnder(spot));
    else if (event.type === "pointerup" && press.shift) { // the bin that most of the rows drawn over are in
      const rows = [press.spot, spot].map(rowUnder).sort((a, b) => a - b);
      const held = new Map();
      for (let row = rows[0]; row <= rows[1]; row++) held.set(bandOf(row).name, (held.get(bandOf(row).name) ?? 0) + 1);
      send({ brushed: [...held].sort((a, b) => b[1] - a[1])[0][0] });
    }
    if (!pointers.size) press = null;
  };
  stage.addEventListener("pointerup", released);
  stage.addEventListener("pointercancel", released);
  stage.addEventListener("pointerleave", () => pointers.size || point(-1));
  stage.addEventListener("wheel", (event) => {
    // A page that is being scrolled goes on scrolling; a picture that was chosen, or pinched, zooms.
    if (!event.ctrlKey && document.activeElement !== stage) return;
    event.preventDefault();
    event.stopPropagation();
    const { x, y } = spotOf(event);
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), y, x, event.altKey);
  }, { passive: false });

  // --- frames and keys

  const frameTo = (frame) => send({ frame: clamp(frame, 0, Math.max(model.get("frames") - 1, 0)) });
  slider.addEventListener("input", () => frameTo(Number(slider.value)));

  function stepOn() { // the next frame is asked for when this one is on the screen
    clearTimeout(playing);
    if (!model.get("playing") || model.get("frames") < 2 || !model.get("transport")) return;
    const last = model.get("frames") - 1;
    if (picture && picture.number >= last && model.get("frame") >= last) return send({ playing: false });
    playing = setTimeout(() => frameTo(model.get("frame") + 1), PLAY);
  }

  function played() {
    if (model.get("playing") && model.get("frame") >= model.get("frames") - 1 && model.get("transport")) frameTo(0);
    else stepOn();
    say();
  }

  const next = (name, words) => {
    const all = Object.keys(words);
    send({ [name]: all[(all.indexOf(model.get(name)) + 1) % all.length] });
  };
  const sideways = (by, event) => (event.shiftKey ? move(0, 0.2 * by) : frameTo(model.get("frame") + by));
  const upright = (by, event) => {
    if (event.shiftKey) return move(0.2 * by, 0);
    if (!picture) return;
    const from = pointed >= 0 ? pointed : rowOf(model.get("pinned"));
    const row = from < 0 ? rowAt(model.get("view")[0]) : clamp(from + by, 0, tops.length - 1);
    const [top, bottom] = model.get("view");
    const beyond = tops[row] < top ? tops[row] - top : Math.max(bottoms[row] - bottom, 0);
    if (beyond) move(beyond / (bottom - top), 0);
    point(row);
    spoken.textContent = `${model.get("names")[row]}${about(row)}`;
  };
  const ACTIONS = {
    ArrowLeft: (event) => sideways(-1, event), ArrowRight: (event) => sideways(1, event),
    ArrowUp: (event) => upright(-1, event), ArrowDown: (event) => upright(1, event),
    Home: () => frameTo(0), End: () => frameTo(model.get("frames") - 1),
    " ": () => send({ playing: !model.get("playing") }),
    Enter: () => pin(pointed),
    Escape: () => {
      if (!help.hidden) toggleHelp(false);
      else send(model.get("pinned") >= 0 ? { pinned: -1 } : { brushed: "" });
    },
    "+": () => zoomHere(2), "=": () => zoomHere(2), "-": () => zoomHere(0.5), 0: () => look(FULL),
    c: () => next("color", COLORS), o: () => next("order", ORDERS),
    b: () => { equal = !equal; placeRows(); look(FULL); redraw(); },
    "?": () => toggleHelp(),
  };
  ["head", "torso", "tail"].forEach((name, i) => (ACTIONS[i + 1] = () => brush(name)));

  function zoomHere(factor) {
    const row = pointed >= 0 ? pointed : rowOf(model.get("pinned"));
    const y = row < 0 ? 0.5 : yOf((tops[row] + bottoms[row]) / 2, 1);
    zoom(factor, y < 0 || y > 1 ? 0.5 : y);
  }

  el.addEventListener("keydown", (event) => {
    const held = !help.hidden || model.get("pinned") >= 0 || model.get("brushed");
    if (event.key === "Escape" && !held) return; // nothing to let go of here: it ends presenting
    const inside = event.target === stage || help.contains(event.target);
    const act = ACTIONS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (inside && act && !(help.contains(event.target) && event.key !== "Escape" && event.key !== "?") &&
        !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      act(event);
    }
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation(); // Lab would take D D for a cell
  });

  // --- what comes from the kernel

  const redraw = () => (draw(), say());
  const take = () => {
    const bytes = model.get("picture");
    if (!bytes?.byteLength) {
      [picture, pointed] = [null, -1];
      placeRows();
      return say();
    }
    const message = unpack(bytes);
    if (message.seq === picture?.seq) return undefined;
    const taken = after(picture, message);
    if (!taken) return closed || model.send({ ask: "everything" });
    picture = taken;
    if (message.base === null) {
      pointed = Math.min(pointed, picture.labels.length - 1);
      placeRows();
    }
    redraw();
    flash();
    el.dataset.shown = picture.number;
    return stepOn();
  };
  const remember = () => {
    const bytes = model.get("history");
    past = bytes?.byteLength ? unpack(bytes) : null;
    redraw();
  };
  const ticked = () => requestAnimationFrame(() => send({ seen: model.get("tick") }));
  const rethemed = () => requestAnimationFrame(() => {
    colors = palettes(isDark());
    redraw();
  });
  const heard = [["picture", take], ["bands", () => (take(), placeRows(), say())], ["history", remember],
    ["tick", ticked], ["view", redraw], ["brushed", redraw], ["color", redraw], ["pinned", redraw], ["playing", played],
    ...["names", "scores", "scored", "caption", "frames", "order", "transport"].map((name) => [name, say])]
    .map(([name, act]) => [`change:${name}`, act]);
  heard.push(...["comm:close", "destroy"].map((event) => [event, () => (closed = true)]));
  for (const [event, act] of heard) model.on(event, act);
  const theme = new MutationObserver(rethemed);
  theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name", "data-jp-theme-light"] });
  // Plotly follows the window and no more; what stands beside it also changes its size with Lab's side bar.
  const resized = new ResizeObserver(([{ contentRect }]) => {
    if (!contentRect.width || !contentRect.height) return; // hidden: what is in sight stays for when it comes back
    const before = [size()[1], large], named = gutter.querySelector(".xmc-row") !== null;
    measured = [contentRect.width, contentRect.height];
    large = parseFloat(getComputedStyle(el).fontSize) / TYPE;
    // Rows that were brought close keep their names in larger type, and come back to what they were.
    const [top, bottom, ...columns] = model.get("view");
    if (named && large !== before[1] && bottom - top < 0.999) {
      look([top, top + (bottom - top) * (before[1] / large) * (measured[1] / before[0]), ...columns]);
    }
    redraw();
    window.dispatchEvent(new Event("resize"));
  });
  resized.observe(canvas);
  say();
  take();
  if (model.get("history")?.byteLength) remember();
  return () => {
    for (const [event, act] of heard) model.off(event, act);
    theme.disconnect();
    resized.disconnect();
    cancelAnimationFrame(glowing);
    for (const timer of [saveView, tellHovered]) timer.stop();
    clearTimeout(playing);
  };
}

export default { render };
