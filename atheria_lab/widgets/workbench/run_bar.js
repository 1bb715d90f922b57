// The buttons of a workbench. Its keys work wherever in the bench the focus is, but in what takes
// keys itself: sliders, lists, the lattice.

const SHOWN = {
  train: ["M2 13 6 8 9 11 14 3M14 3h-4M14 3v4", "Train", "train episode after episode (t)"],
  run: ["M4 2.5 13 8 4 13.5Z", "Run", "step the lattice, without training (r)"],
  step: ["M3 3 9 8 3 13ZM12 3v10", "Step", "one step more (right arrow)"],
  pause: ["M5 3v10M11 3v10", "Pause", "stand still, or go on (space)"],
  stop: ["M4 4h8v8h-8Z", "Stop", "end what runs (escape)"],
  reset: ["M13 8a5 5 0 1 1-1.6-3.7M13 2v3.2h-3.2", "Reset", "everything from the beginning"],
};
const SVG = "http://www.w3.org/2000/svg";

function icon(parent) {
  const svg = parent.appendChild(document.createElementNS(SVG, "svg"));
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  return svg.appendChild(document.createElementNS(SVG, "path"));
}

const KEYS = {
  " ": "pause", ArrowRight: "step", ArrowLeft: "back", Escape: "stop", t: "train", r: "run",
};
const SPEEDS = [1, 2, 5, 10, 20, 50, 100];

function render({ model, el }) {
  const root = element(el, "div", { className: "atheria-run" });
  const ask = (action) => model.send({ kind: "do", action });
  const buttons = {}, icons = {};
  for (const [action, [path, name, title]] of Object.entries(SHOWN)) {
    const button = element(root, "button", { type: "button", title });
    icons[action] = icon(button);
    icons[action].setAttribute("d", path);
    element(button, "span", { textContent: name });
    button.dataset.action = action;
    button.addEventListener("click", () => ask(action));
    buttons[action] = button;
  }
  const holder = element(root, "label", { textContent: "steps a frame", title: "of a run" });
  const speed = element(holder, "select", { ariaLabel: "steps a frame" });
  speed.replaceChildren(...SPEEDS.map((count) => new Option(count, count)));
  speed.addEventListener("change", () => {
    model.set("speed", Number(speed.value));
    model.save_changes();
  });
  const status = element(root, "div", { className: "atheria-run-status" });
  status.setAttribute("role", "status");

  function draw() {
    const doing = model.get("doing"), paused = model.get("paused"), idle = doing === "idle";
    root.dataset.doing = paused ? "paused" : doing;
    buttons.train.disabled = buttons.run.disabled = !idle;
    buttons.step.disabled = !idle && !(doing === "run" && paused);
    buttons.pause.disabled = buttons.stop.disabled = idle;
    icons.pause.setAttribute("d", SHOWN[paused ? "run" : "pause"][0]);
    buttons.pause.lastChild.textContent = paused ? "Go on" : "Pause";
    speed.value = String(model.get("speed"));
    status.textContent = model.get("status");
  }

  const onKey = (event) => {
    const bench = root.closest(".atheria-workbench");
    if (!bench || !bench.contains(event.target) || event.defaultPrevented) return;
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    if (event.target.closest("input, select, textarea, canvas, [role=slider], [role=log], .atheria-strip")) return;
    if (event.target.closest("button") && event.key === " ") return; // it presses the button
    const action = KEYS[event.key];
    if (!(action in buttons) || !buttons[action].disabled) ask(action);
    event.preventDefault();
    event.stopPropagation();
  };
  // Once it is in the page: the bench takes the focus, and JupyterLab leaves its keys alone.
  const settle = requestAnimationFrame(() => {
    const bench = root.closest(".atheria-workbench");
    if (!bench) return;
    bench.tabIndex = 0;
    bench.dataset.lmSuppressShortcuts = "true";
  });
  document.addEventListener("keydown", onKey);
  const traits = "change:doing change:paused change:status change:speed";
  model.on(traits, draw);
  draw();
  return () => {
    cancelAnimationFrame(settle);
    document.removeEventListener("keydown", onKey);
    model.off(traits, draw);
  };
}

export default { render };
