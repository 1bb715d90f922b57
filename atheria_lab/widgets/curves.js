// Live curves on one canvas. Every message is the whole picture, so that nothing is kept here
// but the newest: a page that comes back, or that missed a hundred messages, misses nothing.

const MARGIN = { left: 64, right: 12, top: 8, bottom: 34 };
const NAMES = ["B", "KiB", "MiB", "GiB", "TiB"];

const bytes = (value) => {
  if (value === 0) return "0";
  const power = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.abs(value)) / 10)));
  return `${+(value / 1024 ** power).toPrecision(3)} ${NAMES[power]}`;
};
const plain = (value) =>
  value === 0 ? "0"
    : Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(1)
      : String(+value.toPrecision(4));

function ticks(low, high, most, base) {
  // Round numbers between low and high: 1, 2 or 5 times a power of ten (or of two, for bytes).
  const span = high - low;
  if (!(span > 0)) return [low];
  let unit;
  if (base === 2) {
    unit = 2 ** Math.ceil(Math.log2(span / most));
  } else {
    const power = 10 ** Math.floor(Math.log10(span / most));
    unit = [1, 2, 5, 10].map((times) => times * power).find((step) => span / step <= most);
  }
  const found = [];
  for (let at = Math.ceil(low / unit) * unit; at <= high * (1 + 1e-9); at += unit) {
    found.push(Math.abs(at) < unit / 1e6 ? 0 : at);
  }
  return found;
}

function render({ model, el }) {
  const root = element(el, "div", { className: "atheria-curves" });
  const heading = element(root, "div", { className: "atheria-curves-title" });
  const canvas = element(root, "canvas", { tabIndex: 0 });
  canvas.setAttribute("role", "img");
  const legend = element(root, "div", { className: "atheria-legend" });
  const context = canvas.getContext("2d");
  let message = null, hover = null, keys = "";

  const style = (name, otherwise) =>
    getComputedStyle(root).getPropertyValue(name).trim() || otherwise;

  function draw() {
    const width = root.clientWidth, height = model.get("height");
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    heading.textContent = model.get("title");
    canvas.setAttribute("aria-label", model.get("title") || "curves");
    if (!message) return;
    paint(width, height);
  }

  function paint(width, height) {
    const { content, lines } = message;
    const unit = model.get("unit"), stacked = model.get("stacked"), log = model.get("log");
    const show = unit === "bytes" ? bytes : plain;
    const ink = style("--jp-ui-font-color2", "#666"), grid = style("--jp-border-color2", "#ddd");
    const plot = {
      left: MARGIN.left, top: MARGIN.top,
      right: width - MARGIN.right, bottom: height - MARGIN.bottom,
    };
    let x0 = Infinity, x1 = -Infinity, y0 = stacked || unit === "bytes" ? 0 : Infinity, y1 = -Infinity;
    for (const line of lines) {
      for (let i = 0; i < line.x.length; i++) {
        x0 = Math.min(x0, line.x[i]);
        x1 = Math.max(x1, line.x[i]);
        if (!log || line.low[i] > 0) y0 = Math.min(y0, line.low[i]);
        if (Number.isFinite(line.high[i])) y1 = Math.max(y1, line.high[i]);
      }
    }
    for (const [, value] of content.limits) {
      // A limit far above would flatten the curves: then it is only named, at the top.
      if (value <= 3 * y1) y1 = Math.max(y1, value);
      if (value < y0) y0 = value;
    }
    if (x0 > x1) { x0 = 0; x1 = 1; }
    if (!(y1 > -Infinity)) { y0 = log ? 1 : 0; y1 = log ? 10 : 1; }
    if (x0 === x1) x1 = x0 + 1;
    if (y0 === y1) { const by = Math.abs(y0) / 10 || 1; y0 -= unit === "bytes" ? 0 : by; y1 += by; }
    if (!log) { const by = 0.06 * (y1 - y0); y1 += by; if (y0 !== 0) y0 -= by; }
    const toX = (x) => plot.left + ((x - x0) / (x1 - x0)) * (plot.right - plot.left);
    const scale = log ? (y) => Math.log(Math.max(y, 1e-300)) : (y) => y;
    const s0 = scale(y0), s1 = scale(y1);
    const toY = (y) => plot.bottom - ((scale(y) - s0) / (s1 - s0)) * (plot.bottom - plot.top);

    context.font = `11px ${style("--jp-ui-font-family", "sans-serif")}`;
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const rows = Math.max(2, Math.floor((plot.bottom - plot.top) / 34));
    const marks = log
      ? Array.from({ length: 40 }, (_, i) => 10 ** (i - 20)).filter((y) => y >= y0 && y <= y1)
      : ticks(y0, y1, rows, unit === "bytes" ? 2 : 10);
    for (const y of marks) {
      context.strokeStyle = grid;
      line(plot.left, toY(y), plot.right, toY(y));
      context.fillStyle = ink;
      context.fillText(show(y), plot.left - 6, toY(y));
    }
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const x of ticks(x0, x1, Math.max(2, Math.floor(width / 110)), 10)) {
      context.fillText(plain(x), toX(x), plot.bottom + 5);
    }
    context.textAlign = "right";
    context.fillText(model.get("x_label"), plot.right, plot.bottom + 19);

    let below = null;
    lines.forEach((curve, at) => {
      const colour = content.colours[at];
      context.fillStyle = colour;
      context.strokeStyle = colour;
      if (stacked) {
        band(curve.x, below || curve.x.map(() => 0), curve.high, 0.75);
        below = curve.high;
        return;
      }
      band(curve.x, curve.low, curve.high, 0.22);
      context.setLineDash(content.dashed[at] ? [5, 4] : []);
      context.lineWidth = 1.6;
      context.beginPath();
      curve.x.forEach((x, i) => context.lineTo(toX(x), toY(curve.mean[i])));
      context.stroke();
      context.setLineDash([]);
    });

    context.textAlign = "left";
    context.textBaseline = "bottom";
    const labels = []; // of limits: one that would lie on another goes to its right
    for (const [name, value, colour] of content.limits) {
      const y = Math.max(plot.top + 12, toY(value)), off = value > y1;
      context.strokeStyle = context.fillStyle = colour;
      context.setLineDash([6, 4]);
      context.lineWidth = 1.4;
      if (!off) line(plot.left, y, plot.right, y);
      context.setLineDash([]);
      const label = `${off ? "↑ " : ""}${name} ${show(value)}`;
      const near = labels.filter((other) => Math.abs(other.y - y) < 13);
      const x = Math.max(plot.left + 4, ...near.map((other) => other.end + 12));
      labels.push({ y, end: x + context.measureText(label).width });
      context.fillText(label, x, y - 2);
    }

    if (hover !== null) {
      const x = x0 + ((hover - plot.left) / (plot.right - plot.left)) * (x1 - x0);
      if (x >= x0 && x <= x1) {
        context.strokeStyle = ink;
        line(hover, plot.top, hover, plot.bottom);
        name(lines.map((curve) => nearest(curve, x)), show, `${model.get("x_label")} ${plain(x)}`);
        return;
      }
    }
    name(lines.map((curve) => curve.mean.length - 1), show, "");

    function line(fromX, fromY, toX_, toY_) {
      context.beginPath();
      context.moveTo(fromX, fromY);
      context.lineTo(toX_, toY_);
      context.stroke();
    }

    function band(x, low, high, alpha) {
      context.globalAlpha = alpha;
      context.beginPath();
      x.forEach((value, i) => context.lineTo(toX(value), toY(high[i])));
      for (let i = x.length - 1; i >= 0; i--) context.lineTo(toX(x[i]), toY(low[i]));
      context.fill();
      context.globalAlpha = 1;
    }
  }

  function nearest(curve, x) {
    let best = -1;
    for (let i = 0; i < curve.x.length; i++) {
      if (best < 0 || Math.abs(curve.x[i] - x) < Math.abs(curve.x[best] - x)) best = i;
    }
    return best;
  }

  function name(places, show, where) {
    const { content, lines } = message;
    const wanted = content.names.join("\n");
    if (wanted !== keys) {
      keys = wanted;
      legend.replaceChildren();
      content.names.forEach((text, at) => {
        const entry = element(legend, "span");
        element(entry, "i").style.background = content.colours[at];
        element(entry, "span", { textContent: text });
        element(entry, "b");
      });
      element(legend, "em");
    }
    const stacked = model.get("stacked");
    lines.forEach((curve, at) => {
      const i = places[at];
      const under = stacked && at > 0 && i >= 0 ? lines[at - 1].mean[i] : 0;
      legend.children[at].lastChild.textContent = i < 0 ? "unknown" : show(curve.mean[i] - under);
    });
    legend.lastChild.textContent = where;
  }

  function receive(content, buffers) {
    if (content.kind !== "curves") return;
    const view = buffers[0];
    const numbers = new Float64Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    let from = 0;
    const lines = content.lengths.map((length) => {
      const part = () => numbers.subarray(from, (from += length));
      return { x: part(), mean: part(), low: part(), high: part() };
    });
    message = { content, lines };
  }

  const { redraw, stop } = attend(model, root, "curves", receive, draw);
  canvas.addEventListener("pointermove", (event) => { hover = event.offsetX; redraw(); });
  canvas.addEventListener("pointerleave", () => { hover = null; redraw(); });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -8, ArrowRight: 8 }[event.key];
    if (!by) return;
    const middle = root.clientWidth / 2;
    hover = Math.min(root.clientWidth - MARGIN.right, Math.max(MARGIN.left, (hover ?? middle) + by));
    redraw();
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => { hover = null; redraw(); });

  const resized = new ResizeObserver(redraw);
  resized.observe(root);
  const traits = "change:title change:unit change:stacked change:log change:height change:x_label";
  model.on(traits, redraw);
  return () => {
    stop();
    resized.disconnect();
    model.off(traits, redraw);
  };
}

export default { render };
