// Decides what a card shows: the camera's own video if this browser can decode it, otherwise JPEGs.

import { store, stored } from "./dom.js";
import { whyNot } from "./video.js";

const KEY = "tridetr.transport";
const CHOICES = ["auto", "jpeg", "video"];
const RETRY_MS = 60_000; // after a failure; doubled with each further one
const LONGEST_RETRY_MS = 960_000;
const STEADY_MS = 300_000; // video that worked for this long has not failed again

/** The user's choice: "auto", "jpeg" or "video"; the URL (`?pictures=jpeg`) overrides the stored choice. */
export function preference() {
  const asked = new URLSearchParams(location.search).get("pictures") ?? stored(KEY);
  return CHOICES.includes(asked) ? asked : "auto";
}

/** Switches to the next choice and returns it. */
export function nextPreference() {
  const next = CHOICES[(CHOICES.indexOf(preference()) + 1) % CHOICES.length];
  store(KEY, next);
  const address = new URL(location.href);
  if (address.searchParams.has("pictures")) {
    address.searchParams.delete("pictures");
    history.replaceState(null, "", address);
  }
  return next;
}

export class Transport {
  isVideo = false;
  reason = ""; // why JPEGs are shown
  viewReason = ""; // why the camera's first stream is shown instead of the second one
  #offer = null; // `video` of the newest `stream` message
  #withheld = "";
  #failure = "";
  #failedAt = 0;
  #retryMs = 0;
  #retriedAt = 0;
  #onChange;
  #round = 0;

  /** `onChange()` is called when isVideo or a reason has changed. */
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

  /** The `video` value to request from the gateway: false, true or "source" (without the second stream). */
  get video() {
    return this.isVideo && this.viewReason ? "source" : this.isVideo;
  }

  /** This browser cannot show the camera's second stream. */
  refuseView(reason) {
    this.viewReason = reason;
    this.#onChange();
  }

  /** Switches to JPEGs for a while, because the video does not work. */
  failed(reason, time) {
    const isSteady = time - this.#retriedAt > STEADY_MS;
    this.#retryMs = isSteady ? RETRY_MS : Math.min(LONGEST_RETRY_MS, 2 * this.#retryMs);
    this.#failure = reason;
    this.#failedAt = time;
    this.decide();
  }

  /** Retries the video some time after a failure. */
  tick(time) {
    if (this.#failure && time - this.#failedAt > this.#retryMs) {
      this.#failure = "";
      this.#retriedAt = time;
      this.decide();
    }
  }

  async decide() {
    const round = (this.#round += 1);
    const wanted = preference();
    let reason = this.#withheld || this.#failure;
    if (wanted === "jpeg") reason = "selected";
    else if (!this.#offer) reason ||= "the camera sends no video that browsers can decode";
    else if (!reason) reason = await whyNot(this.#offer, wanted === "video");
    if (round !== this.#round) return; // superseded by a later call
    const isVideo = !reason;
    if (isVideo === this.isVideo && reason === this.reason) return;
    this.isVideo = isVideo;
    this.reason = reason;
    this.#onChange();
  }
}
