// The card of one camera: its picture, boxes, state and figures.

import { Boxes } from "./boxes.js";
import { now } from "./clock.js";
import { clockTime, duration, milliseconds, setText } from "./dom.js";
import { Meter } from "./meters.js";
import { Picture } from "./picture.js";
import { Stream } from "./stream.js";
import { nextPreference, preference, Transport } from "./transport.js";
import { codecName, Video } from "./video.js";

const STATES = { standby: "Standby", validation: "Validation", tracking: "Tracking", unknown: "Unknown" };
const CLOCKS = {
  arrival: "from the arrival at the node to this screen; does not include the camera and the network before it",
  device: "from the camera's timestamp to this screen",
  synthetic: "from drawing the picture to this screen",
  playback: "from playing this picture of the recording to this screen",
  media: "not available: the times are those of the recording",
};
const TROUBLES = { offline: "Camera offline", frozen: "Picture frozen", blind: "Camera cannot see" };
const CHOICES = { auto: "Automatic", jpeg: "JPEG", video: "Video" };
const NO_KEY_FRAME_MS = 1500; // without a picture for this long, the card shows that it waits for a key frame
const GIVE_UP_MS = 5000; // without a picture of the video for this long, the card switches to JPEGs
const LATE_MS = 900; // longest delay of video pictures that wait for their boxes
const OLD_MS = 4000; // a live camera sends at least a few pictures per second
const OLD_FACTS_MS = 5000; // facts that may be older do not count
const BEHIND_MS = 2500; // a picture of the video that is older than this, for GIVE_UP_MS, is replaced by JPEGs
const TOO_SLOW = "the connection is too slow";

export class Card {
  camera;
  node;
  state = "unknown";
  visitClass = "person";
  lastEvent = 0;
  watching = null; // the newest `watching` message
  #parts = {};
  #picture;
  #video;
  #transport;
  #turnedAt = 0; // when the transport changed, or pictures were requested again
  #behindAt = null; // since when the video is behind
  #frame = null; // header of the picture that is shown
  #lateness = new Meter(); // delays of results relative to their pictures
  #gaps = new Meter(); // intervals between results
  #boxes;
  #stream;
  #status = null;
  #stateHeader = null;
  #wasCurrent = false;
  #lostAt = now();
  #refusal = "";
  #drawnAt = null;
  #frames = new Meter();
  #latencies = new Meter();
  #isDrawing = false;
  #page;

  /** `page` has onState(card), onCurrent(), onHello(header), onNode(header), onPreference() and onLost(attempt). */
  constructor(camera, template, page) {
    this.camera = camera;
    this.#page = page;
    this.node = template.content.firstElementChild.cloneNode(true);
    this.node.dataset.camera = camera;
    for (const part of this.node.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    setText(this.#one(".name"), camera);
    this.#one(".open").setAttribute("aria-label", `Enlarge ${camera}`);
    this.#one(".picture").setAttribute("aria-label", `Live picture of ${camera}`);
    this.#parts.snapshot.href = `snapshot/${encodeURIComponent(camera)}.jpg?boxes=1`;
    this.#parts.fullscreen.addEventListener("click", () => this.toggleFullScreen());
    this.#boxes = new Boxes(this.#one(".overlay"));
    this.#picture = new Picture(
      this.#one(".picture"),
      (header) => this.#drawn(header),
      () => this.#stream.acknowledge(),
    );
    this.#video = new Video(this.#one(".picture"), {
      onDrawn: (header) => this.#drawn(header),
      onFailed: (reason) => this.#transport.failed(reason, now()),
      onViewFailed: (reason) => this.#transport.refuseView(reason),
      onPackets: (count) => this.#stream.acknowledgePackets(count),
      size: () => (this.#status?.width ? [this.#status.width, this.#status.height] : null),
    });
    this.#transport = new Transport(() => this.#turn());
    this.#parts.transport.addEventListener("click", () => {
      nextPreference();
      this.#page.onPreference();
    });
    this.#stream = new Stream(camera, this);
    this.choosePictures();
    new ResizeObserver(() => this.#drawBoxes()).observe(this.node);
    this.#cover();
  }

  get stream() {
    return this.#stream;
  }

  get isOpen() {
    return this.#stream.isOpen;
  }

  /** Whether what the gateway sends arrives late, or does not arrive any more. */
  get isLate() {
    return this.#stream !== undefined && this.#stream.clock.silence > OLD_FACTS_MS;
  }

  /** Whether what is known is about now, and not from before a slow connection or the computer's sleep. */
  get isCurrent() {
    return this.#stream?.clock.isKnown === true && !this.isLate;
  }

  get stateText() {
    return this.#parts.state.textContent;
  }

  get troubleText() {
    return [this.#one(".cover-title").textContent, this.#one(".cover-text").textContent].filter(Boolean).join(": ");
  }

  set showsBoxes(value) {
    this.#boxes.isShown = value;
    this.#drawBoxes();
  }

  toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.#one(".stage").requestFullscreen?.().catch(() => {});
  }

  /** Sets the picture size ("small" or "full") and whether pictures are paused, because the card is not visible. */
  view(size, isPaused) {
    if (this.node.hasAttribute("data-paused") && !isPaused) this.#turnedAt = now();
    this.node.toggleAttribute("data-paused", isPaused);
    this.#stream.view(size, isPaused);
    this.#cover();
  }

  /** Applies the user's choice of transport. */
  choosePictures() {
    setText(this.#parts.transport, `Pictures: ${CHOICES[preference()]}`);
    this.#transport.decide();
  }

  close() {
    this.#stream.close();
    this.#video.restart();
    this.node.remove();
  }

  // --- callbacks from the stream

  onOpen() {
    this.#video.reconnect();
    this.#turnedAt = now();
    this.#lostAt = null;
    this.#refusal = "";
    this.#cover();
  }

  onLost(attempt) {
    this.#lostAt ??= now();
    this.#cover();
    this.#page.onLost(attempt);
  }

  onRefused(reason) {
    this.#refusal = reason;
    this.#cover();
  }

  onPong() {
    if (this.#wasCurrent) return;
    this.#showLateness();
    this.#page.onCurrent();
  }

  onMessage(header, image) {
    if (header.type === "video") this.#video.push(header, image, this.#transport.isVideo);
    else if (header.type === "frame") this.#picture.show(header, image);
    else if (header.type === "stream") this.#transport.offered(header.video, header.reason);
    else if (header.type === "detections") {
      this.#waitForBoxes(header);
      this.#boxes.add(header, now());
      this.#drawBoxes();
      this.#showResult(header);
    } else if (header.type === "state") this.#updateState(header);
    else if (header.type === "status") this.#updateStatus(header);
    else if (header.type === "watching") this.#updateWatching(header);
    else if (header.type === "node") this.#page.onNode(header);
    else if (header.type === "hello") this.#page.onHello(header);
  }

  /** Updates figures that change over time; called once a second. */
  tick() {
    const time = now();
    this.#transport.tick(time);
    const isWaiting = this.#waitsForKeyFrame(time);
    if (this.#isTooSlow(time)) this.#transport.failed(`${TOO_SLOW} for the camera's video`, time);
    else if (isWaiting && time - Math.max(this.#turnedAt, this.#drawnAt ?? 0) > GIVE_UP_MS) this.#transport.failed("no key frame has arrived", time);
    const rate = this.#frames.rate(time);
    setText(this.#parts.fps, rate ? `${rate < 10 ? rate.toFixed(1) : Math.round(rate)} fps` : "–");
    const latency = this.#status?.capture_clock === "media" ? null : this.#latencies.median(time);
    setText(this.#parts.latency, this.#latencyText(latency));
    this.#parts.latency.title = CLOCKS[this.#status?.capture_clock] ?? "";
    this.node.dataset.latency = latency === null ? "" : latency.toFixed(1);
    const since = this.#stateHeader?.since_unix_ms;
    setText(this.#parts.since, since ? `${duration(time + (this.#stream.clock.offset ?? 0) - since)} (${clockTime(since)})` : "–");
    this.#showLateness();
    this.#drawBoxes();
  }

  #latencyText(latency) {
    if (latency === null) return "–";
    const lead = this.#status?.capture_clock === "arrival" ? "≥ " : "";
    // The uncertainty of the clock offset, shown if it is significant (on a busy connection or page).
    const error = this.#stream.clock.error ?? 0;
    const uncertainty = error > 50 && error > latency / 5 ? ` ± ${milliseconds(error)}` : "";
    return `${lead}${milliseconds(Math.max(0, latency))}${uncertainty}`;
  }

  // --- parts of the page

  #one(selector) {
    return this.node.querySelector(selector);
  }

  /** Switches to the transport that was decided on. */
  #turn() {
    this.#turnedAt = now();
    this.#behindAt = null;
    this.#video.restart();
    this.#picture.isOff = false;
    this.#stream.video = this.#transport.video;
    this.node.dataset.transport = this.#transport.isVideo ? "video" : "jpeg";
    this.#parts.picture.title = this.#transport.isVideo ? "" : `JPEG: ${this.#transport.reason}`;
  }

  /** Whether the camera is live but its video cannot be shown, because decoding can only start at a key frame. */
  #waitsForKeyFrame(time) {
    const isLive = this.#stream?.isOpen && this.#status?.state === "live" && !this.node.hasAttribute("data-paused");
    const { frame, needsKey } = this.#video;
    if (!this.#transport.isVideo || !isLive || time - this.#turnedAt < NO_KEY_FRAME_MS) return false;
    if (frame === null) return true;
    const isBehind = this.#boxes.newest?.capture_unix_ms > frame.capture_unix_ms + NO_KEY_FRAME_MS;
    return time - this.#drawnAt > NO_KEY_FRAME_MS && (needsKey || isBehind);
  }

  /** Whether the connection does not carry the camera's video. */
  #isTooSlow(time) {
    if (!this.#transport.isVideo || !this.#stream.isOpen || this.node.hasAttribute("data-paused")) return false;
    if (this.#video.isSkipping) return true;
    const isArriving = time - this.#video.arrivedAt < BEHIND_MS;
    if (this.#video.frame === null || !isArriving || this.#pictureAge() < BEHIND_MS) this.#behindAt = null;
    else this.#behindAt ??= time;
    return this.#behindAt !== null && time - this.#behindAt > GIVE_UP_MS;
  }

  /** At most how old the picture that is shown is (ms); 0 if its age is unknown. */
  #pictureAge() {
    if (this.#frame === null || this.#status?.capture_clock === "media") return 0;
    return this.#stream.clock.age(this.#frame.capture_unix_ms) ?? 0;
  }

  /** While there are boxes, delays the video until their results arrive, so that boxes and people match. */
  #waitForBoxes(result) {
    const time = now();
    const newest = this.#boxes.newest;
    if (newest) this.#gaps.add(time, result.capture_unix_ms - newest.capture_unix_ms);
    const arrived = this.#video.arrival(result.capture_unix_ms);
    if (arrived !== null) this.#lateness.add(time, time - arrived);
    const isNeeded = this.#boxes.isShown && (result.boxes.length > 0 || newest?.boxes.length > 0);
    const wanted = (this.#lateness.most(time) ?? 0) + Math.max(0, this.#gaps.most(time) ?? 0);
    this.#video.wantedDelay = isNeeded ? Math.min(LATE_MS, wanted) : 0;
  }

  #drawn(header) {
    const time = now();
    this.#frame = header;
    this.#drawnAt = time;
    this.#frames.add(time);
    const offset = this.#stream.clock.offset;
    // The browser takes about one refresh to show the picture on the screen.
    if (offset !== null) {
      requestAnimationFrame(() => this.#latencies.add(now(), now() + offset - header.capture_unix_ms));
    }
    this.node.style.setProperty("--aspect", `${header.image_width} / ${header.image_height}`);
    this.node.dataset.sequence = header.sequence ?? "";
    this.node.dataset.frame = header.frame_number ?? "";
    this.node.dataset.packet = header.packet ?? "";
    this.node.dataset.captured = header.capture_unix_ms;
    const jpeg = header.original ? "camera's own JPEG" : "JPEG";
    const how = header.codec ? `camera's own ${codecName(header.codec)}` : jpeg;
    const fault = header.codec ? this.#status?.view_fault || this.#transport.viewReason : "";
    setText(this.#parts.picture, `${header.width} × ${header.height}, ${how}${fault && ` (view: ${fault})`}`);
    this.#cover();
    if (header.codec) {
      this.#picture.isOff = true;
      this.#boxes.draw(header, time); // with the picture, not one animation frame later
    } else this.#drawBoxes();
  }

  #drawBoxes() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => {
      this.#isDrawing = false;
      const isFading = this.#boxes.draw(this.#frame, now());
      if (isFading && this.#frames.rate(now()) === 0) setTimeout(() => this.#drawBoxes(), 200);
    });
  }

  #showResult(result) {
    const counts = new Map();
    for (const box of result.boxes) counts.set(box.label, (counts.get(box.label) ?? 0) + 1);
    const text = [...counts].map(([label, count]) => (count > 1 ? `${count} × ${label}` : label)).join(", ");
    setText(this.#parts.found, text || "nothing");
    setText(this.#parts.inference, `${result.infer_ms.toFixed(1)} ms (${result.total_ms.toFixed(1)} ms in total)`);
    setText(this.#parts.model, result.engine ? `${result.model}, ${result.engine}` : result.model);
  }

  #updateState(header) {
    this.#stateHeader = header;
    this.state = header.state;
    this.visitClass = header.visit_class || "person";
    this.lastEvent = header.last_event;
    this.#showState();
    this.#page.onState(this);
  }

  /** Shows the state; Standby only counts while the camera is watched. */
  #showState() {
    const isStale = this.state === "standby" && (this.watching?.watching === false || !this.isCurrent);
    const state = isStale || !STATES[this.state] ? "unknown" : this.state;
    this.node.dataset.state = state;
    setText(this.#parts.state, STATES[state]);
    this.#parts.state.title = this.#stateHeader?.reason ?? "";
  }

  /** Updates what depends on how late messages and pictures are. */
  #showLateness() {
    this.#wasCurrent = this.isCurrent;
    this.#showState();
    this.#cover();
  }

  #updateWatching(header) {
    this.watching = header;
    this.#showState();
    this.#cover();
    this.#page.onState(this);
  }

  #updateStatus(header) {
    this.#status = header;
    const rate = header.source_fps ? ` at ${+header.source_fps.toFixed(1)} fps` : "";
    const again = header.reconnects ? `, reconnected ${header.reconnects} ×` : "";
    setText(this.#parts.source, header.source_kind ? `${header.source_kind}${rate}${again}` : "–");
    this.#cover();
  }

  /** Shows over the picture why it is not live, so that a stale picture never looks live. */
  #cover() {
    const [kind, title, text] = this.#trouble();
    this.node.dataset.trouble = kind;
    setText(this.#one(".cover-title"), title);
    setText(this.#one(".cover-text"), text);
  }

  #trouble() {
    const since = (unixMs) => (unixMs ? ` since ${clockTime(unixMs)}` : "");
    if (this.#lostAt !== null && (this.#drawnAt === null || now() - this.#lostAt > 1500)) {
      const last = this.#drawnAt ? `last picture at ${clockTime(this.#drawnAt)}` : "";
      return ["connection", this.#refusal ? "No connection" : "Connecting…", this.#refusal || last];
    }
    if (this.isLate) return ["late", `No answer from the gateway for ${duration(this.#stream.clock.silence)}`, TOO_SLOW];
    if (this.#status === null || !this.isCurrent) return ["waiting", "Waiting…", ""];
    const { state, message } = this.#status;
    if (state === "ended") return ["ended", "The recording has ended", message];
    if (state in TROUBLES) return [state, TROUBLES[state] + since(this.#status.since_unix_ms), message];
    if (this.#waitsForKeyFrame(now())) return ["waiting", "Waiting for a key frame…", "the video can only start at a key frame"];
    const isPaused = this.node.hasAttribute("data-paused"); // no pictures were requested
    if (this.#drawnAt === null && !isPaused) return ["waiting", "Waiting for the first picture…", message];
    const age = now() - (this.#drawnAt ?? now());
    if (age > OLD_MS && !isPaused) return ["old", "No new picture", `for ${duration(age)}`];
    const pictureAge = this.#pictureAge();
    if (pictureAge > OLD_MS && !isPaused) return ["late", `Picture is ${duration(pictureAge)} old`, TOO_SLOW];
    const watching = this.watching;
    if (watching?.watching === false) {
      return ["unwatched", `Not watching${since(watching.since_unix_ms)}`, watching.reason];
    }
    return ["", "", ""];
  }
}
