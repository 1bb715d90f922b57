// What every live view shares: making elements, and telling the kernel what can be seen.

const QUIET_MS = 5000; // a page that has heard nothing for so long asks
const seenViews = new WeakMap(); // model -> its views on this page that can be seen

function element(parent, tag, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  // Or JupyterLab takes the arrows: it looks for this on the element that has the focus.
  if (made.tabIndex >= 0) made.dataset.lmSuppressShortcuts = "true";
  parent.append(made);
  return made;
}

// Messages are asked for while the view is in the window of a page in front, and drawn at most
// once a frame of the screen. Returns { redraw, acknowledge, stop }.
function attend(model, root, kind, receive, draw) {
  const views = seenViews.get(model) || new Set();
  seenViews.set(model, views);
  let inWindow = false, heard = performance.now(), waiting = 0, unread = null;

  const redraw = () => {
    if (!waiting) {
      waiting = requestAnimationFrame(() => {
        waiting = 0;
        draw();
        if (unread === null) return;
        root.dataset.frames = Number(root.dataset.frames || 0) + 1;
        model.send({ kind: "ack", id: unread });
        unread = null;
      });
    }
  };
  const look = () => {
    const seen = inWindow && !document.hidden;
    if (seen === views.has(root)) return;
    if (seen) views.add(root);
    else views.delete(root);
    if (seen || views.size === 0) model.send({ kind: seen ? "hello" : "hidden" });
    if (seen) redraw(); // a notebook may have blanked a canvas that was off the screen
  };
  const observer = new IntersectionObserver((entries) => {
    inWindow = entries[entries.length - 1].isIntersecting;
    look();
  });
  const pulse = setInterval(() => {
    if (views.has(root) && performance.now() - heard > QUIET_MS) {
      heard = performance.now();
      model.send({ kind: "quiet" });
    }
  }, QUIET_MS);
  const listen = (content, buffers) => {
    heard = performance.now();
    receive(content, buffers);
    if (content.kind !== kind) return;
    unread = content.id;
    redraw();
  };
  observer.observe(root);
  document.addEventListener("visibilitychange", look);
  model.on("msg:custom", listen);
  return {
    redraw,
    stop() {
      observer.disconnect();
      clearInterval(pulse);
      cancelAnimationFrame(waiting);
      document.removeEventListener("visibilitychange", look);
      model.off("msg:custom", listen);
      if (views.delete(root) && views.size === 0) model.send({ kind: "hidden" });
    },
  };
}
