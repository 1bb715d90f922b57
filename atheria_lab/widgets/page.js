// What every live view shares: making elements, and telling the kernel what can be seen.

const ANSWER_MS = 40;
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
  let inWindow = false, heard = performance.now(), waiting = 0, fresh = false;
  let newest = 0, unanswered = 0, answering = 0;

  const answer = () => {
    clearTimeout(answering);
    unanswered = answering = 0;
    model.send({ kind: "ack", id: newest });
  };
  const redraw = () => {
    if (!waiting) {
      waiting = requestAnimationFrame(() => {
        waiting = 0;
        draw();
        if (fresh) root.dataset.frames = Number(root.dataset.frames || 0) + 1;
        fresh = false;
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
    fresh = true;
    newest = content.id;
    redraw();
    // A page that is too busy to draw is too busy to come here: this is the moment to ask for more.
    // One answer for two messages, as every answer has JupyterLab show the kernel as busy and idle.
    unanswered += 1;
    if (unanswered >= 2) answer();
    else if (!answering) answering = setTimeout(answer, ANSWER_MS);
  };
  observer.observe(root);
  document.addEventListener("visibilitychange", look);
  model.on("msg:custom", listen);
  return {
    redraw,
    stop() {
      observer.disconnect();
      clearInterval(pulse);
      clearTimeout(answering);
      cancelAnimationFrame(waiting);
      document.removeEventListener("visibilitychange", look);
      model.off("msg:custom", listen);
      if (views.delete(root) && views.size === 0) model.send({ kind: "hidden" });
    },
  };
}
