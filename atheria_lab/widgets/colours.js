// Colours: the kernel sends the tables once, three times 256 colours of three bytes.

const TABLES = { sequential: 0, phase: 768, domain: 768, diverging: 1536 };

function pixels(bytes, name) {
  // 256 colours, or 256 angles x 256 strengths, as the 32-bit words of an ImageData.
  const colour = (i) => [0, 1, 2].map((part) => bytes.getUint8(TABLES[name] + 3 * i + part));
  const word = (rgb, alpha) =>
    ((Math.round(alpha) << 24) | (rgb[2] << 16) | (rgb[1] << 8) | rgb[0]) >>> 0;
  if (name !== "phase" && name !== "domain") {
    return Uint32Array.from({ length: 256 }, (_, i) => word(colour(i), 255));
  }
  const words = new Uint32Array(65536);
  for (let angle = 0; angle < 256; angle++) {
    const rgb = colour(angle);
    for (let strength = 0; strength < 256; strength++) {
      const light = strength / 255;
      words[strength * 256 + angle] =
        name === "phase"
          ? word(rgb, 255 * (0.06 + 0.94 * light))
          : word(rgb.map((part) =>
              light < 0.6 ? (part * light) / 0.6 : part + (255 - part) * (light - 0.6)), 255);
    }
  }
  return words;
}

function gradient(bytes, name) {
  const stops = [];
  for (let i = 0; i < 256; i += 15) {
    stops.push(`rgb(${[0, 1, 2].map((part) => bytes.getUint8(TABLES[name] + 3 * i + part))})`);
  }
  return `linear-gradient(to right, ${stops})`;
}

// Colour planes of bytes into an ImageData; (top, left) is the cell in the corner, on a torus.
function paint(image, planes, words, top = 0, left = 0) {
  const { width, height } = image;
  const out = new Uint32Array(image.data.buffer);
  const cells = height * width, two = planes.length === 2 * cells;
  for (let y = 0, at = 0; y < height; y++) {
    const row = ((y + top) % height) * width;
    for (let x = 0, from = row + left; x < width; x++, at++, from++) {
      if (from === row + width) from = row;
      out[at] = two ? words[planes[cells + from] * 256 + planes[from]] : words[planes[from]];
    }
  }
}
