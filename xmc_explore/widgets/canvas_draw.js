// From connections to pixels. A level says how a connection is coloured and, the higher, that it is drawn over others;
// level 0 is nothing. A palette is [red, green, blue, opacity] of each of 256 levels.

const mix = (a, b, share) => a.map((x, i) => x + (b[i] - x) * share);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const css = ([r, g, b, a]) => `rgba(${Math.round(r)},${Math.round(g)},${Math.round(b)},${a.toFixed(2)})`;

const NEWBORN = { age: 255, change: 3 }; // the levels of what the last rewire has grown
const LOUD = 2; // the level from which on a change stands out: died, born

function palettes(dark) {
  const old = dark ? [150, 150, 150, 0.7] : [128, 128, 128, 0.75];
  const fresh = dark ? [240, 110, 195, 1] : [204, 60, 150, 1], minus = dark ? [120, 200, 60, 1] : [60, 130, 20, 1];
  const gone = dark ? [90, 190, 230, 1] : [0, 110, 160, 1], faint = dark ? [160, 160, 160, 0.6] : [115, 115, 115, 0.5];
  // Of two runs: three steps of lightness, so that a poor projector keeps them apart, and hues for the colour-blind.
  const both = dark ? [245, 245, 245, 1] : [24, 24, 24, 1];
  const only = dark ? [[50, 130, 220, 1], [240, 150, 30, 1]] : [[0, 105, 195, 1], [205, 115, 0, 1]];
  const of = (color) => Array.from({ length: 256 }, (_, level) => color(level));
  return {
    age: of((level) => mix(old, fresh, level / 255)),
    weight: of((level) => mix(faint, level % 2 ? minus : fresh, Math.sqrt((level >> 1) / 127))),
    change: of((level) => [faint, faint, gone, fresh][level] ?? faint), // stayed, died, born
    pair: of((level) => [both, both, ...only][level] ?? both), // in both, only in A, only in B
    ink: dark ? "#fff" : "#000",
  };
}

function levelsOf(picture, color) {
  const { values, step, weight, pair } = picture;
  const levels = new Uint8Array(values.length);
  const scale = 253 / Math.max(step, 1);
  for (let slot = 0; slot < levels.length; slot++) {
    const value = values[slot];
    if (pair) levels[slot] = value === 3 ? 1 : value + 1;
    else if (color === "weight") levels[slot] = weight?.[slot] || 1;
    else if (step && value === step) levels[slot] = NEWBORN[color];
    else levels[slot] = color === "age" ? 1 + scale * value : 1;
  }
  return levels;
}

// Of each pixel of a picture: the highest level there (of a pair: any), and how many connections it stands for.
class Raster {
  best = new Uint8Array(0);
  seen = new Uint16Array(0);

  resize(width, height) {
    if (this.width === width && this.height === height) return;
    Object.assign(this, { width, height, image: new ImageData(width, height) });
    this.ink = new Uint32Array(this.image.data.buffer);
    this.best = new Uint8Array(width * height);
    this.seen = new Uint16Array(width * height);
  }

  // `rows`: the first and the last in sight, and of all rows their tops and bottoms; `view`: what is in sight.
  fill(picture, levels, { first, last, tops, bottoms }, [top, bottom, left, right], { ratio, loud }) {
    const { width, height, best, seen } = this;
    const { features, fan_in: fanIn, width: columns, pair, dead_rows: deadRows = [] } = picture;
    best.fill(0);
    seen.fill(0);
    this.scale = height / (bottom - top);
    this.usual = fanIn / columns;
    this.pair = Boolean(pair);
    const cell = width / (columns * (right - left)), gap = cell >= 6 * ratio ? 1 : 0; // in pixels
    // Where few connections are in sight each is drawn some CSS pixels wide, or it would be lost; and what a rewire
    // moved is not lost among what stayed.
    const inRow = fanIn * (right - left), tall = height / (last + 1 - first);
    const crowd = (inRow * 4 * ratio * ratio) / (width * tall);
    const least = crowd < 0.3 ? Math.round(2 * ratio) : 1, most = Math.max(least, Math.round(1.5 * ratio));
    const broad = Math.round(clamp(tall / 3, least, 5 * ratio));
    const wide = inRow * broad < 0.3 * width ? broad : least;
    const from = new Int32Array(columns + 1), to = new Int32Array(columns + 1), toLoud = new Int32Array(columns + 1);
    this.across = new Uint16Array(width); // how many columns begin in a column of pixels
    for (let feature = 0; feature < columns; feature++) {
      const x = (picture.columns[feature] / columns - left) * cell * columns;
      if (x >= 0 && x < width) this.across[Math.floor(x)] += 1;
      if (x + cell <= 0 || x >= width) continue; // and a label of a dense head reads beyond all features
      from[feature] = Math.floor(x);
      to[feature] = Math.max(from[feature] + wide, Math.floor(x + cell) - gap);
      toLoud[feature] = Math.max(to[feature], from[feature] + most);
    }
    const put = (x0, x1, y0, y1, level) => {
      const start = Math.max(x0, 0), end = Math.min(x1, width);
      for (let y = Math.max(y0, 0); y < y1 && y < height; y++) {
        for (let i = y * width + start; i < y * width + end; i++) {
          if (pair || level > best[i]) best[i] = level; // of a pair whoever comes last, or one of them would look rare
          seen[i] += 1;
        }
      }
    };
    const hollow = (x0, x1, y0, y1, level) => {
      const edge = Math.max(1, Math.round(Math.min(1.5 * ratio, (x1 - x0) / 5)));
      if (x1 - x0 < 3 * edge || y1 - y0 < 3 * edge) return put(x0, x1, y0, y1, level);
      put(x0, x1, y0, y0 + edge, level);
      put(x0, x1, y1 - edge, y1, level);
      put(x0, x0 + edge, y0 + edge, y1 - edge, level);
      return put(x1 - edge, x1, y0 + edge, y1 - edge, level);
    };
    let dead = 0;
    while (deadRows[dead] < first) dead += 1;
    for (let row = first; row <= last; row++) {
      const y = (tops[row] - top) * this.scale, end = (bottoms[row] - top) * this.scale;
      const y0 = Math.floor(y), line = Math.floor(end) - (end - y > 6 * ratio ? 1 : 0);
      const y1 = Math.max(y0 + least, line), y2 = Math.max(y0 + most, line);
      // The second cue, where there is room: who is in one of two runs only is half; who died is hollow.
      const halves = pair && y1 - y0 >= 5 * ratio, middle = Math.round((y0 + y1) / 2);
      for (let slot = row * fanIn; slot < (row + 1) * fanIn; slot++) {
        const feature = features[slot], level = levels[slot], x0 = from[feature];
        if (loud && level >= LOUD) put(x0, toLoud[feature], y0, y2, level);
        else put(x0, to[feature], halves && level === 3 ? middle : y0, halves && level === 2 ? middle : y1, level);
      }
      if (loud) {
        for (; deadRows[dead] === row; dead++) {
          const feature = picture.dead_features[dead];
          hollow(from[feature], toLoud[feature], y0, y2, LOUD);
        }
      }
    }
  }

  // `bands`: where one begins and ends among the lines of pixels, rows in a line, and the share of its opacity.
  paint(pen, palette, bands, loud) {
    const { width, best, seen, ink } = this;
    ink.fill(0);
    const rgb = Uint32Array.from(palette, ([r, g, b]) => (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r));
    const opacity = Float32Array.from(palette, (color) => 255 * color[3]);
    for (const { from, to, rows, dim } of bands) {
      // Of a pixel that stands for many cells, the opacity says how many of them are connected.
      const each = Float32Array.from(this.across, (n) => 0.85 / Math.max(1, 2.5 * Math.max(1, rows) * this.usual * n));
      for (let line = from; line < to; line++) {
        for (let x = 0, i = line * width; x < width; x++, i++) {
          const level = best[i];
          if (!level) continue;
          const share = this.pair || (loud && level >= LOUD) ? 1 : Math.min(1, 0.15 + each[x] * seen[i]);
          ink[i] = (Math.round(opacity[level] * dim * share) << 24) | rgb[level];
        }
      }
    }
    pen.putImageData(this.image, 0, 0);
  }
}
