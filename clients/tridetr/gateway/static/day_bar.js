// The timeline of a day: one line per camera with visits, times without sight, and times without a recorder.

import { element, timeOfDay } from "./dom.js";

const HOURS = [0, 6, 12, 18, 24];
const TEXTS = { visit: "Visit", blind: "Blind", unrecorded: "Not recorded" };

export class DayBar {
  #node;
  #onChoose;

  constructor(node, onChoose) {
    this.#node = node;
    this.#onChoose = onChoose;
  }

  /** Shows the spans of each camera between two times (Unix, milliseconds). */
  show(cameras, from, to) {
    const end = Math.min(to, Date.now());
    const focused = this.#node.contains(document.activeElement) ? document.activeElement.hash : null;
    const lines = Object.entries(cameras).map(([camera, spans]) => {
      const bar = element("div", { className: "line-bar" });
      for (const span of spans) {
        const first = Math.max(from, span.from_unix_ms);
        // The future does not count as a time without a recorder.
        const last = Math.min(span.kind === "unrecorded" ? end : to, span.to_unix_ms);
        if (last >= first) bar.append(this.#span(camera, span, first, last, from, to));
      }
      if (end < to) {
        const future = element("span", { className: "future", title: "Still to come" });
        future.style.left = `${(100 * Math.max(0, end - from)) / (to - from)}%`;
        bar.append(future);
      }
      return element("div", { className: "line" }, element("span", { className: "line-name", text: camera, title: camera }), bar);
    });
    this.#node.replaceChildren(...lines, element("div", { className: "line" }, element("span"), hours()));
    if (focused) this.#node.querySelector(`a[href="${focused}"]`)?.focus({ preventScroll: true });
  }

  #span(camera, span, first, last, from, to) {
    const time = (ms) => timeOfDay(ms, { seconds: false });
    const text = `${TEXTS[span.kind]} at ${camera}, ${time(first)} – ${time(last)}`;
    const node = span.visit_id
      ? element("a", { href: `#${span.visit_id}`, "aria-label": text, title: text })
      : element("span", { title: text });
    node.classList.add("span");
    node.dataset.kind = span.kind;
    node.style.left = `${(100 * (first - from)) / (to - from)}%`;
    node.style.width = `${(100 * (last - first)) / (to - from)}%`;
    if (span.visit_id) {
      node.addEventListener("click", (event) => {
        event.preventDefault();
        this.#onChoose(span.visit_id);
      });
    }
    return node;
  }
}

function hours() {
  const scale = element("div", { className: "hours", "aria-hidden": "true" });
  for (const hour of HOURS) {
    const mark = element("span", { text: `${String(hour).padStart(2, "0")}:00` });
    mark.style.left = `${(100 * hour) / 24}%`;
    scale.append(mark);
  }
  return scale;
}
