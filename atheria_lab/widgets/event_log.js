// A log's last entries. Every message is all of them, so that the page keeps no more than they are.

function render({ model, el }) {
  const root = element(el, "div", { className: "atheria-log" });
  const heading = element(root, "div", { className: "atheria-log-title" });
  const list = element(root, "div", { className: "atheria-log-lines", tabIndex: 0 });
  list.setAttribute("role", "log");
  list.dataset.lmSuppressShortcuts = "true";
  let message = null;

  function draw() {
    if (!message) return;
    const { entries, dropped } = message;
    const follow = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
    while (list.children.length > entries.length) list.lastChild.remove();
    while (list.children.length < entries.length) {
      const line = element(list, "div");
      element(line, "time");
      element(line, "span");
    }
    entries.forEach(([time, level, text], at) => {
      const line = list.children[at];
      if (line.lastChild.textContent === text && line.firstChild.textContent === time) return;
      line.dataset.level = level;
      line.firstChild.textContent = time;
      line.lastChild.textContent = text;
    });
    const most = message.limit ? ` of ${message.limit}` : "";
    heading.textContent = `events: ${entries.length}${most}`
      + (dropped ? `, ${dropped.toLocaleString()} older ones dropped` : "");
    if (follow) list.scrollTop = list.scrollHeight;
  }

  const { stop } = attend(model, root, "log", (content) => {
    if (content.kind === "log") message = content;
  }, draw);
  return stop;
}

export default { render };
