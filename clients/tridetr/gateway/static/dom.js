// Helpers for the page; text is inserted through textContent only, never as HTML.

export function element(tag, { className = "", text = "", ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The decoded fragment of the page's URL or a link's; as it is, if it is not valid percent-encoding. */
export function fragment({ hash } = location) {
  const text = hash.slice(1);
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Sets the size of a canvas in pixels; an unchanged size keeps its contents. */
export function resize(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
}

/** The user's choice, as stored by `store`; null if there is none, or if the browser blocks the storage. */
export function stored(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** Stores a choice of the user; if the browser blocks the storage, it is lost when the page is closed. */
export function store(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // blocked
  }
}

/** The display text of a class name: "person" becomes "Person". */
export function classText(name) {
  const text = name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function milliseconds(value) {
  if (value >= 10_000) return `${Math.round(value / 1000)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${Math.round(value)} ms`;
}

export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

/** The local time of day of a Date or a Unix time (ms). */
export function timeOfDay(when, { seconds = true } = {}) {
  const parts = { hour: "2-digit", minute: "2-digit", hour12: false };
  return new Date(when).toLocaleTimeString([], seconds ? { ...parts, second: "2-digit" } : parts);
}

export function clockTime(unixMs) {
  const then = new Date(unixMs);
  const isToday = then.toDateString() === new Date().toDateString();
  const time = timeOfDay(then);
  return isToday ? time : `${then.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}
