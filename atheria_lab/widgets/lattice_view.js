// A live picture of psi on a torus. The kernel sends planes of bytes; colours are put on here.
// One canvas, one ImageData: a frame overwrites the one before, so that nothing grows.

const TOOLS = { look: "Look", damage: "Damage", excite: "Excite" };

const number = (value) =>
  value === 0 ? "0" : Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3
    ? value.toExponential(1) : value.toPrecision(3);

function choice(bar, model, name, label, options) {
  const holder = element(bar, "label", { className: "atheria-choice", textContent: label });
  const select = element(holder, "select", { ariaLabel: label });
  const fill = () => {
    const entries = options();
    if (select.options.length !== entries.length) {
      select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
    }
    select.value = String(model.get(name));
  };
  select.addEventListener("change", () => {
    const old = model.get(name);
    model.set(name, typeof old === "number" ? Number(select.value) : select.value);
    model.save_changes();
  });
  fill();
  return fill;
}

function render({ model, el }) {
  const tables = model.get("_tables");
  const words = new Map();
  let frame = null; // { content, planes } of the newest message
  let image = null;
  let top = 0, left = 0, zoom = 1; // the cell in the corner, and how far it is zoomed
  let pointer = null, probing = 0, stroke = null, drag = null;
  let times = [];

  const root = element(el, "div", { className: "atheria-lattice" });
  const bar = element(root, "div", { className: "atheria-bar" });
  const fills = [
    choice(bar, model, "view", "view", () => model.get("_views").map((view) => [view, view])),
    choice(bar, model, "channel", "channel", () =>
      Array.from({ length: model.get("_channels") }, (_, i) => [i, i])),
    choice(bar, model, "tool", "pointer", () => Object.entries(TOOLS)),
    choice(bar, model, "radius", "radius", () => [0, 1, 2, 4, 8, 16].map((r) => [r, r])),
  ];
  const box = element(root, "div", { className: "atheria-box" });
  const canvas = element(box, "canvas", {
    tabIndex: 0, width: 1, height: 1,
    title: "scroll or + and -: zoom (click first) · drag or arrows: move · 0: all · v: next view",
  });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "the lattice");
  const scale = element(root, "div", { className: "atheria-scale" });
  const low = element(scale, "span"), ramp = element(scale, "i"), high = element(scale, "span");
  const readout = element(root, "div", { className: "atheria-readout", textContent: " " });
  const context = canvas.getContext("2d");

  const wrap = (value, size) => ((value % size) + size) % size;

  function draw() {
    if (!frame) return;
    const { content, planes } = frame;
    const [height, width] = content.shape;
    if (canvas.width !== width || canvas.height !== height || !image) {
      canvas.width = width;
      canvas.height = height;
      image = context.createImageData(width, height);
      box.style.aspectRatio = `${width} / ${height}`;
      top = left = 0;
    }
    if (!words.has(content.colours)) words.set(content.colours, pixels(tables, content.colours));
    paint(image, planes, words.get(content.colours), top, left);
    context.putImageData(image, 0, 0);
    canvas.style.width = `${100 * zoom}%`;
    if (frame.fresh) {
      frame.fresh = false;
      const now = performance.now();
      times = [...times.filter((time) => now - time < 1000), now];
      root.dataset.rate = times.length;
      const angles = content.colours === "phase" || content.colours === "domain";
      low.textContent = angles ? "-π" : number(content.low);
      high.textContent = angles ? "π" : number(content.high);
      ramp.style.background = gradient(tables, content.colours);
      tell();
      probe(250);
    }
  }

  function tell(values) {
    if (values) readout.dataset.values = values;
    const step = frame && frame.content.step != null ? `step ${frame.content.step.toLocaleString()}` : "";
    const rate = times.length > 1 ? `${times.length} frames/s` : "";
    const under = pointer ? readout.dataset.values || "" : "";
    readout.textContent = [step, rate, under].filter(Boolean).join(" · ") || " ";
  }

  function cellAt(event) {
    if (!frame) return null;
    const [height, width] = frame.content.shape;
    const [rows, columns] = frame.content.size; // of psi, of which the frame may be a reduction
    const edge = canvas.getBoundingClientRect();
    const y = Math.floor(((event.clientY - edge.top) / edge.height) * height);
    const x = Math.floor(((event.clientX - edge.left) / edge.width) * width);
    return [
      Math.floor((wrap(y + top, height) * rows) / height),
      Math.floor((wrap(x + left, width) * columns) / width),
    ];
  }

  function probe(pause = 60) {
    if (!pointer || performance.now() - probing < pause) return;
    probing = performance.now();
    model.send({ kind: "probe", cell: pointer });
  }

  function zoomTo(next, event) {
    const before = event && cellOfFrame(event);
    zoom = Math.min(32, Math.max(1, next));
    canvas.style.width = `${100 * zoom}%`;
    if (before && frame) {
      const after = cellOfFrame(event);
      top = wrap(top + before[0] - after[0], frame.content.shape[0]);
      left = wrap(left + before[1] - after[1], frame.content.shape[1]);
    }
    redraw();
  }

  function cellOfFrame(event) {
    const edge = canvas.getBoundingClientRect();
    return [
      Math.floor(((event.clientY - edge.top) / edge.height) * canvas.height) + top,
      Math.floor(((event.clientX - edge.left) / edge.width) * canvas.width) + left,
    ];
  }

  function move(rows, columns) {
    if (!frame) return;
    top = wrap(top + rows, frame.content.shape[0]);
    left = wrap(left + columns, frame.content.shape[1]);
    redraw();
  }

  const flush = () => {
    if (stroke && stroke.length) {
      model.send({ kind: "draw", tool: model.get("tool"), cells: stroke, radius: model.get("radius") });
      stroke = [];
    }
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (model.get("tool") === "look") {
      drag = cellOfFrame(event);
    } else {
      stroke = [cellAt(event)].filter(Boolean);
      requestAnimationFrame(flush);
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    pointer = cellAt(event);
    if (drag) {
      const now = cellOfFrame(event);
      move(drag[0] - now[0], drag[1] - now[1]);
    } else if (stroke && pointer) {
      if (!stroke.length) requestAnimationFrame(flush);
      stroke.push(pointer);
    }
    probe();
  });
  const release = () => { flush(); stroke = drag = null; };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { pointer = null; tell(); });
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas) return; // the page scrolls until the view is clicked
    event.preventDefault();
    zoomTo(zoom * (event.deltaY < 0 ? 1.25 : 0.8), event);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const by = Math.max(1, Math.round(canvas.width / zoom / 16));
    const keys = {
      ArrowUp: () => move(-by, 0), ArrowDown: () => move(by, 0),
      ArrowLeft: () => move(0, -by), ArrowRight: () => move(0, by),
      "+": () => zoomTo(zoom * 1.25), "=": () => zoomTo(zoom * 1.25), "-": () => zoomTo(zoom * 0.8),
      0: () => { top = left = 0; zoomTo(1); },
      v: () => {
        const views = model.get("_views");
        model.set("view", views[(views.indexOf(model.get("view")) + 1) % views.length]);
        model.save_changes();
      },
    };
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    keys[event.key]();
    event.preventDefault();
  });

  function receive(content, buffers) {
    if (content.kind === "frame") {
      const { buffer, byteOffset, byteLength } = buffers[0];
      frame = { content, planes: new Uint8Array(buffer, byteOffset, byteLength), fresh: true };
    } else if (content.kind === "values") {
      tell(content.text);
    }
  }

  const { redraw, stop } = attend(model, root, "frame", receive, draw);
  const refill = () => fills.forEach((fill) => fill());
  const traits = "change:view change:channel change:_channels change:tool change:radius";
  model.on(traits, refill);
  return () => {
    stop();
    model.off(traits, refill);
  };
}

export default { render };
