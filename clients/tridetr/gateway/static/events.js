// The list of events, from /api/events; reloaded when a camera reports a newer event.

import { classText, clockTime, duration, element } from "./dom.js";

const SHOWN = 60;
const POLL_MS = 20_000;
const TEXTS = {
  camera_lost: "View lost",
  camera_back: "View restored",
};
const ARRIVALS = ["arrived", "joined"];
const ENDS = { left: "All clear", lost: "Visit lost" };

/** The class and the change in the kind of an event: `person_arrived` is "person" and "arrived". */
function split(kind) {
  return /^(.*)_([a-z]+)$/.exec(kind)?.slice(1) ?? [kind, ""];
}

/** The text of an event; an arrival is named after its class (`person_arrived`: "Person"). */
function textOf(event) {
  if (event.kind in TEXTS) return TEXTS[event.kind];
  const [name, change] = split(event.kind);
  return ARRIVALS.includes(change) ? classText(event.details.class ?? name) : (ENDS[change] ?? event.kind);
}

export class EventList {
  #list;
  #empty;
  #newest = 0;
  #newestMs = 0;
  #wanted = 0;
  #isAsking = false;
  #onChoose;

  constructor(list, empty, onChoose) {
    this.#list = list;
    this.#empty = empty;
    this.#onChoose = onChoose;
    setInterval(() => this.refresh(), POLL_MS);
  }

  /** A camera reports that there are events up to `seq`. */
  hear(seq) {
    if (seq > this.#wanted) {
      this.#wanted = seq;
      this.refresh();
    }
  }

  async refresh() {
    if (this.#isAsking || document.hidden) return;
    this.#isAsking = true;
    try {
      // With the newest one, so that an answer without it reveals a new database
      const events = await this.#ask(Math.max(0, this.#newest - 1));
      const isSame = ({ seq, unix_ms }) => seq === this.#newest && unix_ms === this.#newestMs;
      if (this.#newest === 0 || events.some(isSame)) this.#add(events);
      else this.#replace(await this.#ask(0));
    } catch {
      // The gateway cannot be reached: the streams report that, and the next poll retries.
    }
    this.#isAsking = false;
  }

  async #ask(after) {
    const response = await fetch(`api/events?limit=${SHOWN}&after=${after}`);
    if (!response.ok) throw new Error(`status ${response.status}`);
    return (await response.json()).events;
  }

  #replace(events) {
    if (events.length === 0) return; // nothing yet, or the database cannot be read now
    this.#newest = this.#wanted = 0;
    this.#list.replaceChildren();
    this.#add(events);
  }

  #add(events) {
    for (const event of [...events].reverse()) {
      if (event.seq <= this.#newest) continue;
      this.#newest = event.seq;
      this.#newestMs = event.unix_ms;
      this.#list.prepend(this.#row(event));
    }
    while (this.#list.children.length > SHOWN) this.#list.lastElementChild.remove();
    this.#empty.hidden = this.#list.children.length > 0;
  }

  #row(event) {
    const details = [];
    const change = split(event.kind)[1];
    if (change === "left" && event.details.duration_s > 0) {
      details.push(`after ${duration(event.details.duration_s * 1000)}`);
    }
    if (ARRIVALS.includes(change) && event.details.score) {
      details.push(`${Math.round(event.details.score * 100)} %`);
    }
    const button = element(
      "button",
      { type: "button", className: "event" },
      element("span", { className: "event-kind", text: textOf(event) }),
      element("span", { className: "event-camera", text: event.camera }),
      element("span", { className: "event-more", text: details.join(" ") }),
      element("time", { text: clockTime(event.unix_ms), datetime: new Date(event.unix_ms).toISOString() }),
    );
    button.addEventListener("click", () => this.#onChoose(event.camera));
    return element("li", { "data-kind": event.kind, "data-seq": event.seq }, button);
  }
}
