// The events page: all saved visits, newest first, with filters, the timeline of a day, and a dialog for one visit.

import { DayBar } from "./day_bar.js";
import { classText, duration, element, fragment, setText, timeOfDay } from "./dom.js";
import { VisitDetail } from "./visit_detail.js";

const PAGE = 40;
const POLL_MS = 15_000;

const byId = (id) => document.getElementById(id);
const form = byId("filters");
const list = byId("visits");
const note = byId("note");
const rows = new Map(); // by visit ID
const day = new DayBar(byId("day"), (id) => open(id));
const detail = new VisitDetail(byId("detail"), { onStep: open, onClose: () => close() });
let next = null; // `before` of the next page
let hasMore = true;
let round = 0; // incremented when the filters change, so that older answers are dropped
let isLoading = false;
let asked = 0; // incremented when a visit is opened or closed, so that older answers are dropped

// --- requests

function wanted() {
  const data = new FormData(form);
  return { camera: data.get("camera"), class: data.get("class"), day: data.get("day") };
}

/** Start and end of a day in the browser's time zone; it may have 23 or 25 hours. */
function bounds(text) {
  const first = text ? new Date(`${text}T00:00`) : new Date();
  first.setHours(0, 0, 0, 0);
  const last = new Date(first.getFullYear(), first.getMonth(), first.getDate() + 1);
  return { from: first.getTime(), to: last.getTime() };
}

/** The filters and further parameters as a query. */
function query(further = {}) {
  const { camera, class: name, day: text } = wanted();
  const parameters = new URLSearchParams(further);
  if (camera) parameters.set("camera", camera);
  if (name) parameters.set("class", name);
  if (text) {
    const { from, to } = bounds(text);
    parameters.set("from_unix_ms", from);
    parameters.set("to_unix_ms", to);
  }
  return parameters;
}

async function ask(address) {
  const response = await fetch(address);
  if (response.status === 401) location.assign(`login?to=events${location.hash}`);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body;
}

// --- the list

async function more() {
  if (isLoading || !hasMore) return;
  isLoading = true;
  const mine = round;
  try {
    const place = next === null ? {} : { before: next };
    const page = await ask(`api/visits?${query({ limit: PAGE, ...place })}`);
    if (mine !== round) return;
    next = page.next;
    hasMore = next !== null;
    for (const visit of page.visits) put(visit, false);
    offer("class", page.classes, classText);
    describe(page);
    isLoading = false;
    fill();
  } catch (error) {
    if (mine !== round) return;
    isLoading = false;
    fault(error); // `refresh` tries again
  }
}

/** Loads more if the list is still shorter than the window. */
function fill() {
  if (byId("end").getBoundingClientRect().top < innerHeight + 600) more();
}

/** Loads new visits, and changes of visits that are still open. */
async function refresh() {
  if (document.hidden || isLoading) return;
  const mine = round;
  try {
    const page = await ask(`api/visits?${query({ limit: PAGE })}`);
    if (mine !== round) return;
    for (const visit of [...page.visits].reverse()) put(visit, true);
    describe(page);
    showDay();
    if (detail.changing) open(detail.changing);
    fill();
  } catch (error) {
    fault(error);
  }
}

function put(visit, isNew) {
  const known = rows.get(visit.visit_id);
  const text = JSON.stringify(visit);
  if (known?.dataset.text === text) return;
  const row = element("li", { "data-seq": visit.seq }, rowOf(visit));
  row.dataset.text = text;
  const hadFocus = known?.contains(document.activeElement);
  if (known) known.replaceWith(row);
  else if (isNew) list.prepend(row);
  else list.append(row);
  rows.set(visit.visit_id, row);
  if (hadFocus) row.firstElementChild.focus({ preventScroll: true });
}

function rowOf(visit) {
  const start = new Date(visit.started_unix_ms);
  const base = `api/visits/${visit.visit_id}`;
  const picture = visit.picture
    ? element("img", { className: "visit-thumb", src: `${base}/picture.jpg?crop=1&v=${Math.round(visit.picture.unix_ms)}`, alt: "", loading: "lazy", width: 108, height: 76 })
    : element("span", { className: "visit-thumb" });
  const end = visit.open ? "now" : timeOfDay(visit.ended_unix_ms);
  const link = element(
    "a",
    { className: "visit", href: `#${visit.visit_id}` },
    picture,
    element("span", { className: "visit-what", text: classText(visit.class) }, element("small", { text: visit.camera })),
    element(
      "span",
      { className: "visit-when" },
      element("time", { text: `${timeOfDay(start)} – ${end}`, datetime: start.toISOString() }),
      element("small", { text: start.toLocaleDateString([], { weekday: "short", day: "numeric", month: "short", year: "numeric" }) }),
    ),
    element("span", { className: "visit-long", text: visit.open ? "Present" : duration(visit.ended_unix_ms - visit.started_unix_ms) }),
    element("span", { className: "visit-score", text: visit.score ? `${Math.round(visit.score * 100)} %` : "–" }),
  );
  link.toggleAttribute("data-open", visit.open);
  return link;
}

function describe(page) {
  delete note.dataset.kind;
  if (!page.enabled) {
    setText(note, "Pictures and clips of visits are not saved. Add `evidence: {}` to the configuration to save them.");
  } else if (rows.size === 0) {
    const { camera, class: name, day: text } = wanted();
    setText(note, camera || name || text ? "No visit matches the filters." : "No visit has been recorded yet.");
  } else {
    setText(note, hasMore ? "Loading…" : "All saved visits are shown.");
  }
}

function fault(error) {
  note.dataset.kind = "fault";
  setText(note, `The visits cannot be loaded: ${error.message}`);
}

// --- filters, stored in the URL so that links and reloads show the same

function offer(name, values, text = (value) => value) {
  const select = form.elements[name];
  for (const value of values) {
    if (![...select.options].some((option) => option.value === value)) {
      select.append(element("option", { value, text: text(value) }));
    }
  }
}

function start() {
  round += 1;
  isLoading = false;
  next = null;
  hasMore = true;
  rows.clear();
  list.replaceChildren();
  setText(note, "Loading…");
  showDay();
  more();
}

function keep() {
  const parameters = new URLSearchParams(Object.entries(wanted()).filter(([, value]) => value));
  history.replaceState(null, "", `${location.pathname}${parameters.size ? `?${parameters}` : ""}${location.hash}`);
}

function restore() {
  const parameters = new URLSearchParams(location.search);
  for (const name of ["camera", "class"]) {
    const value = parameters.get(name) ?? "";
    if (value) offer(name, [value], name === "class" ? classText : undefined);
    form.elements[name].value = value;
  }
  form.elements.day.value = parameters.get("day") ?? "";
}

async function showDay() {
  const { camera, day: text } = wanted();
  const { from, to } = bounds(text);
  const first = new Date(from);
  const isToday = Date.now() >= from && Date.now() < to;
  const date = first.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });
  setText(byId("day-title"), isToday ? `Today, ${date}` : date);
  try {
    const line = await ask(`api/timeline?from_unix_ms=${from}&hours=${Math.round((to - from) / 3_600_000)}`);
    offer("camera", Object.keys(line.cameras));
    day.show(camera ? { [camera]: line.cameras[camera] ?? [] } : line.cameras, from, to);
  } catch {
    // The list shows the error.
  }
}

// --- one visit, selected by the URL fragment

async function open(id) {
  asked += 1;
  const mine = asked;
  let visit = null;
  let problem = "";
  try {
    visit = await ask(`api/visits/${encodeURIComponent(id)}?${query()}`);
  } catch (error) {
    problem = error.message;
  }
  if (mine !== asked) return; // another visit was requested meanwhile
  if (fragment() !== id) history.pushState(null, "", `#${id}`);
  if (visit) detail.show(visit);
  else detail.missing(problem);
}

function close() {
  asked += 1;
  const id = location.hash.slice(1);
  if (id) history.pushState(null, "", location.pathname + location.search);
  rows.get(id)?.firstElementChild.focus();
}

function follow() {
  const id = fragment();
  if (id && id !== "visits") open(id);
  else {
    asked += 1;
    detail.hide();
  }
}

form.addEventListener("change", () => {
  keep();
  start();
});
form.addEventListener("reset", () => setTimeout(() => {
  keep();
  start();
}));
form.addEventListener("submit", (event) => event.preventDefault());
list.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  open(fragment(link));
});
window.addEventListener("popstate", follow);
window.addEventListener("hashchange", follow);
document.addEventListener("visibilitychange", refresh);
new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && more(), { rootMargin: "600px" }).observe(byId("end"));
setInterval(refresh, POLL_MS);

restore();
start();
follow();
