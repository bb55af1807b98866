// The viewer page: a grid of cameras, or one enlarged camera, with the events next to it.

import { Armed } from "./armed.js";
import { Card } from "./card.js";
import { classText, element, fragment, setText } from "./dom.js";
import { EventList } from "./events.js";
import { fit } from "./layout.js";
import { Shortcuts } from "./shortcuts.js";
import { StatusList } from "./status.js";
import { isBlind, notices, summarise as summary } from "./summary.js";

const byId = (id) => document.getElementById(id);
const grid = byId("cameras");
const cards = new Map();
let pageVersion = null;
let areBoxesShown = true;
let refreshing = null;
let node = null; // the newest `node` message
const armed = new Armed((text) => setText(byId("announce"), text));
armed.add("", byId("armed"));
const statuses = new StatusList(byId("status"));

const events = new EventList(byId("events"), byId("no-events"), (camera) => choose(camera));

const page = {
  onState(card) {
    events.hear(card.lastEvent);
    announce(card);
    summarise();
  },
  onCurrent() {
    summarise();
  },
  onNode(header) {
    node = header;
    armed.show(header.armed);
    summarise();
  },
  onHello(header) {
    byId("logout").hidden = !header.login;
    // After an upgrade of the gateway, the scripts of this page are outdated.
    if (pageVersion !== null && pageVersion !== header.page_version) location.reload();
    pageVersion = header.page_version;
    events.refresh();
    summarise();
  },
  onPreference() {
    for (const card of cards.values()) card.choosePictures();
  },
  onLost(attempt) {
    summarise();
    // Browsers do not show why a WebSocket was refused; the API returns the reason.
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
      armed.add(name, card.node.querySelector('[data-part="armed"]'));
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

// --- the enlarged camera, stored in the URL fragment so that links and the back button work

function chosen() {
  const name = fragment();
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
  const had = document.activeElement?.closest(".card"); // the card with the focus, which moves to the chosen card
  document.body.classList.toggle("single", name !== null);
  byId("back").hidden = name === null || cards.size === 1;
  for (const [camera, card] of cards) {
    const isChosen = camera === name;
    card.node.classList.toggle("chosen", isChosen);
    card.node.querySelector(".open").setAttribute(
      "aria-label",
      isChosen ? `${camera}: back to all cameras` : `Enlarge ${camera}`,
    );
  }
  if (had && name && !had.classList.contains("chosen")) cards.get(name).node.querySelector(".open").focus();
  arrange();
  summarise();
}

function arrange() {
  fit(grid);
  adjustViews();
}

function step(by) {
  const names = [...cards.keys()];
  const index = names.indexOf(chosen());
  if (names.length > 1) choose(names[(index + by + names.length) % names.length]);
}

// --- pictures are requested for visible cards only, in the size in which they are shown

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
    card.view(card.node.classList.contains("chosen") || pixels > 900 ? "full" : "small", isPaused);
  }
}

// --- texts

function summarise() {
  const all = [...cards.values()];
  const { text, kind } = summary(all, node);
  setText(byId("summary"), text);
  byId("summary").dataset.kind = kind;
  document.body.classList.toggle("gone", kind === "lost" && all.length > 0);
  const lines = notices(all, node);
  if (lines.join("\n") !== byId("notices").dataset.lines) {
    byId("notices").dataset.lines = lines.join("\n");
    byId("notices").replaceChildren(...lines.map((line) => element("li", { text: line })));
    arrange();
  }
  const alarmed = all.filter((card) => card.isOpen && card.state === "tracking").map((card) => card.camera);
  const blind = all.filter(isBlind).length;
  const title = alarmed.length ? `● ${alarmed.join(", ")} – tridetr` : blind ? `⚠ ${blind} blind – tridetr` : "tridetr";
  if (document.title !== title) document.title = title;
  statuses.show(all);
}

const spoken = new Map();

/** Announces important changes to screen readers, once each; nothing else on the page is announced. */
function announce(card) {
  const isWatched = card.watching?.watching !== false;
  const now = isWatched ? card.state : "blind";
  const before = spoken.get(card.camera);
  spoken.set(card.camera, now);
  if (before === undefined || before === now) return;
  if (now === "blind") setText(byId("announce"), `${card.camera} is not watched: ${card.watching.reason}`);
  else if (now === "tracking") setText(byId("announce"), `${classText(card.visitClass)} at ${card.camera}`);
  else if (now === "standby" && before === "tracking") setText(byId("announce"), `All clear at ${card.camera}`);
  else if (before === "blind") setText(byId("announce"), `${card.camera} is watched again`);
}

function toggleBoxes() {
  areBoxesShown = !areBoxesShown;
  byId("boxes").setAttribute("aria-pressed", String(areBoxesShown));
  for (const card of cards.values()) card.showsBoxes = areBoxesShown;
}

// --- user input

byId("back").addEventListener("click", () => choose(null));
byId("boxes").addEventListener("click", toggleBoxes);
window.addEventListener("hashchange", show);
window.addEventListener("popstate", show);
window.addEventListener("resize", arrange);
window.addEventListener("online", () => cards.forEach((card) => card.stream.hurry()));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    cards.forEach((card) => card.stream.hurry());
    events.refresh();
  }
  adjustViews();
  summarise();
});
for (const tab of document.querySelectorAll(".tabs button")) {
  tab.addEventListener("click", () => {
    document.body.dataset.tab = tab.dataset.tab;
    for (const other of document.querySelectorAll(".tabs button")) {
      other.setAttribute("aria-pressed", String(other === tab));
    }
    arrange();
  });
}
new Shortcuts(
  {
    Escape: () => cards.size > 1 && chosen() && choose(null),
    ArrowRight: () => chosen() && step(1),
    ArrowLeft: () => chosen() && step(-1),
    b: toggleBoxes,
    f: () => chosen() && cards.get(chosen()).toggleFullScreen(),
  },
  byId("shortcuts"),
);

setInterval(() => {
  cards.forEach((card) => card.tick());
  summarise();
}, 1000);

load();
