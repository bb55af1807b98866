// The page: a grid of cameras, one of them large if wanted, and the events beside.

import { Card } from "./card.js";
import { classText, setText } from "./dom.js";
import { EventList } from "./events.js";

const byId = (id) => document.getElementById(id);
const grid = byId("cameras");
const cards = new Map();
let pageVersion = null;
let areBoxesShown = true;
let refreshing = null;

const events = new EventList(byId("events"), byId("no-events"), (camera) => choose(camera));

const page = {
  onState(card) {
    events.hear(card.lastEvent);
    announce(card);
    summarise();
  },
  onHello(header) {
    byId("logout").hidden = !header.login;
    // After an upgrade of the gateway the scripts of this page are old.
    if (pageVersion !== null && pageVersion !== header.page_version) location.reload();
    pageVersion = header.page_version;
    events.refresh();
    summarise();
  },
  onLost(attempt) {
    summarise();
    // A refused WebSocket does not tell why; the interface does.
    if (attempt === 2 || attempt % 10 === 9) refreshCameras();
  },
};

// --- cameras

async function refreshCameras() {
  refreshing ??= fetchCameras().finally(() => (refreshing = null));
  return refreshing;
}

async function fetchCameras() {
  let response;
  try {
    response = await fetch("api/cameras");
  } catch {
    return false;
  }
  if (response.status === 401) location.assign(`login${location.hash}`);
  if (!response.ok) return false;
  const names = (await response.json()).cameras.map((camera) => camera.name);
  for (const [name, card] of cards) {
    if (!names.includes(name)) {
      card.close();
      cards.delete(name);
    }
  }
  for (const name of names) {
    if (!cards.has(name)) {
      const card = new Card(name, byId("card"), page);
      card.node.querySelector(".open").addEventListener("click", () => choose(chosen() === name ? null : name));
      card.showsBoxes = areBoxesShown;
      cards.set(name, card);
      grid.append(card.node);
      inSight.observe(card.node);
    }
  }
  show();
  return true;
}

async function load() {
  for (let wait = 500; !(await refreshCameras()); wait = Math.min(5000, wait * 1.5)) {
    summarise();
    await new Promise((resolve) => setTimeout(resolve, wait * (0.5 + Math.random())));
  }
}

// --- which camera is large: the fragment of the address says so, so that links and the back button work

function chosen() {
  const name = decodeURIComponent(location.hash.slice(1));
  if (cards.has(name)) return name;
  return cards.size === 1 ? cards.keys().next().value : null;
}

function choose(name) {
  if (name === null) history.pushState(null, "", location.pathname);
  else location.hash = encodeURIComponent(name);
  show();
}

function show() {
  const name = chosen();
  document.body.classList.toggle("single", name !== null);
  byId("back").hidden = name === null || cards.size === 1;
  for (const [camera, card] of cards) {
    const isChosen = camera === name;
    card.node.classList.toggle("chosen", isChosen);
    card.node.querySelector(".open").setAttribute(
      "aria-label",
      isChosen ? `${camera}: back to all cameras` : `Show ${camera} large`,
    );
  }
  adjustViews();
  summarise();
}

function step(by) {
  const names = [...cards.keys()];
  const index = names.indexOf(chosen());
  if (names.length > 1) choose(names[(index + by + names.length) % names.length]);
}

// --- pictures are asked for only where they are seen, in the size in which they are seen

const sight = new WeakSet();
const inSight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) sight.add(entry.target);
    else sight.delete(entry.target);
  }
  adjustViews();
}, { rootMargin: "100px" });

function adjustViews() {
  for (const card of cards.values()) {
    const isPaused = document.hidden || !sight.has(card.node);
    const pixels = card.node.clientWidth * Math.min(2, window.devicePixelRatio || 1);
    card.node.toggleAttribute("data-paused", isPaused);
    card.stream.view(card.node.classList.contains("chosen") || pixels > 900 ? "full" : "small", isPaused);
  }
}

// --- words

function summarise() {
  const all = [...cards.values()];
  const lost = all.filter((card) => !card.stream.isOpen).length;
  const alarmed = all.filter((card) => card.state === "tracking").map((card) => card.camera);
  let text = `${all.length} ${all.length === 1 ? "camera" : "cameras"}`;
  if (all.length === 0) text = "Connecting…";
  else if (lost === all.length) text = "Connecting to the gateway…";
  else if (alarmed.length) text = `${visitors(all)}: ${alarmed.join(", ")}`;
  else if (all.every((card) => card.state === "standby")) text += ", all quiet";
  setText(byId("summary"), text);
  byId("summary").dataset.kind = all.length === 0 || lost === all.length ? "lost" : alarmed.length ? "alarm" : "";
  const title = alarmed.length ? `● ${alarmed.join(", ")} – tridetr` : "tridetr";
  if (document.title !== title) document.title = title;
}

/** What alarms at the moment: the classes that opened the visits. */
function visitors(all) {
  const classes = all.filter((card) => card.state === "tracking").map((card) => classText(card.visitClass));
  return [...new Set(classes)].join(", ");
}

const spoken = new Map();

function announce(card) {
  const before = spoken.get(card.camera);
  spoken.set(card.camera, card.state);
  if (before === undefined || before === card.state) return;
  if (card.state === "tracking") setText(byId("announce"), `${classText(card.visitClass)} at ${card.camera}`);
  else if (before === "tracking" && card.state === "standby") setText(byId("announce"), `All clear at ${card.camera}`);
  else if (card.state === "unknown") setText(byId("announce"), `${card.camera}: state unknown`);
}

function toggleBoxes() {
  areBoxesShown = !areBoxesShown;
  byId("boxes").setAttribute("aria-pressed", String(areBoxesShown));
  for (const card of cards.values()) card.showsBoxes = areBoxesShown;
}

// --- hands

byId("back").addEventListener("click", () => choose(null));
byId("boxes").addEventListener("click", toggleBoxes);
window.addEventListener("hashchange", show);
window.addEventListener("popstate", show);
window.addEventListener("resize", adjustViews);
window.addEventListener("online", () => cards.forEach((card) => card.stream.hurry()));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    cards.forEach((card) => card.stream.hurry());
    events.refresh();
  }
  adjustViews();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.fullscreenElement) return;
  const keys = {
    Escape: () => cards.size > 1 && chosen() && choose(null),
    ArrowRight: () => chosen() && step(1),
    ArrowLeft: () => chosen() && step(-1),
    b: toggleBoxes,
    f: () => chosen() && cards.get(chosen()).toggleFullScreen(),
  };
  keys[event.key]?.();
});

setInterval(() => {
  cards.forEach((card) => card.tick());
  summarise();
}, 1000);

load();
