// The kept states of a rollout as thumbnails, and where in the rollout they lie.

function render({ model, el }) {
  const tables = model.get("_tables");
  const words = new Map();
  const root = element(el, "div", { className: "atheria-strip" });
  const heading = element(root, "div", { className: "atheria-strip-title" });
  const row = element(root, "div", { className: "atheria-strip-row" });
  row.setAttribute("role", "listbox");
  row.setAttribute("aria-label", "kept states");
  const line = element(root, "div", { className: "atheria-strip-line" });
  let message = null;

  function draw() {
    if (!message) return;
    const { content, planes } = message;
    const [height, width] = content.shape, count = content.indices.length;
    const size = planes.length / Math.max(1, count);
    heading.textContent = content.title;
    while (row.children.length > count) row.lastChild.remove();
    while (row.children.length < count) thumbnail();
    while (line.children.length > count) line.lastChild.remove();
    while (line.children.length < count) element(line, "i");
    if (!words.has(content.colours)) words.set(content.colours, pixels(tables, content.colours));
    content.indices.forEach((index, at) => {
      const button = row.children[at], canvas = button.firstChild;
      if (canvas.width !== width || canvas.height !== height || !canvas.image) {
        canvas.width = width;
        canvas.height = height;
        canvas.image = canvas.getContext("2d").createImageData(width, height);
      }
      paint(canvas.image, planes.subarray(at * size, (at + 1) * size), words.get(content.colours));
      canvas.getContext("2d").putImageData(canvas.image, 0, 0);
      button.lastChild.textContent = index.toLocaleString();
      button.setAttribute("aria-label", `state after step ${index}`);
      button.setAttribute("aria-selected", String(index === content.picked));
      line.children[at].style.left = `${(100 * index) / Math.max(1, content.steps)}%`;
      line.children[at].dataset.picked = String(index === content.picked);
    });
  }

  function thumbnail() {
    const button = element(row, "button", { type: "button" });
    button.setAttribute("role", "option");
    element(button, "canvas");
    element(button, "span");
    button.addEventListener("click", () => {
      const at = [...row.children].indexOf(button);
      model.send({ kind: "pick", index: message.content.indices[at] });
    });
    button.addEventListener("keydown", (event) => {
      const next = { ArrowLeft: "previousSibling", ArrowRight: "nextSibling" }[event.key];
      if (!next || !button[next]) return;
      button[next].focus();
      button[next].click();
      event.preventDefault();
    });
  }

  function receive(content, buffers) {
    if (content.kind !== "strip") return;
    const { buffer, byteOffset, byteLength } = buffers[0];
    message = { content, planes: new Uint8Array(buffer, byteOffset, byteLength) };
  }

  const { stop } = attend(model, root, "strip", receive, draw);
  return stop;
}

export default { render };
