// Which pictures a card shows: the camera's own video where this browser can decode it, JPEGs otherwise.

import { whyNot } from "./video.js";

const KEY = "tridetr.transport";
const CHOICES = ["auto", "jpeg", "video"];
const RETRY_MS = 60_000;

/** What the user wants: "auto", "jpeg" or "video"; the address (`?pictures=jpeg`) goes before what was chosen last. */
export function preference() {
  const asked = new URLSearchParams(location.search).get("pictures") ?? localStorage.getItem(KEY);
  return CHOICES.includes(asked) ? asked : "auto";
}

/** Goes on to the next choice and returns it. */
export function nextPreference() {
  const next = CHOICES[(CHOICES.indexOf(preference()) + 1) % CHOICES.length];
  localStorage.setItem(KEY, next);
  const address = new URL(location.href);
  if (address.searchParams.has("pictures")) {
    address.searchParams.delete("pictures");
    history.replaceState(null, "", address);
  }
  return next;
}

export class Transport {
  isVideo = false;
  reason = ""; // why not
  viewReason = ""; // why the camera's second stream is not shown, only its first one
  #offer = null; // `video` of the newest `stream` message
  #withheld = "";
  #failure = "";
  #failedAt = 0;
  #onChange;
  #round = 0;

  /** `onChange()`: isVideo or reason has changed. */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  offered(video, withheld = "") {
    if (JSON.stringify(video) === JSON.stringify(this.#offer) && withheld === this.#withheld) return;
    this.#offer = video;
    this.#withheld = withheld;
    this.#failure = "";
    this.decide();
  }

  /** What to ask the gateway for: false, true or "source" (without the second stream). */
  get video() {
    return this.isVideo && this.viewReason ? "source" : this.isVideo;
  }

  /** This browser cannot show the camera's second stream. */
  refuseView(reason) {
    this.viewReason = reason;
    this.#onChange();
  }

  /** Video does not work now: JPEGs for a while. */
  failed(reason, time) {
    this.#failure = reason;
    this.#failedAt = time;
    this.decide();
  }

  /** Tries again after a failure, some time later. */
  tick(time) {
    if (this.#failure && time - this.#failedAt > RETRY_MS) {
      this.#failure = "";
      this.decide();
    }
  }

  async decide() {
    const round = (this.#round += 1);
    const wanted = preference();
    let reason = this.#withheld || this.#failure;
    if (wanted === "jpeg") reason = "chosen";
    else if (!this.#offer) reason ||= "the camera has no video that browsers decode";
    else if (!reason) reason = await whyNot(this.#offer, wanted === "video");
    if (round !== this.#round) return; // overtaken
    const isVideo = !reason;
    if (isVideo === this.isVideo && reason === this.reason) return;
    this.isVideo = isVideo;
    this.reason = reason;
    this.#onChange();
  }
}
