// One camera: its picture, boxes, state and figures.

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
  arrival: "since the picture arrived here; what the camera and the network took before is not in it",
  device: "from the camera's own time stamp to this screen",
  synthetic: "from the drawn picture to this screen",
  playback: "from the moment the recording came to this picture to this screen",
  media: "the times are those of the recording",
};
const CHOICES = { auto: "Automatic", jpeg: "JPEG", video: "Video" };
const NO_KEY_FRAME_MS = 1500; // then it is said what is waited for
const GIVE_UP_MS = 5000; // without a picture of the video: JPEGs again
const LATE_MS = 900; // boxes that come later are not waited for
const OLD_MS = 4000; // a live camera sends at least a few pictures a second

export class Card {
  camera;
  node;
  state = "unknown";
  visitClass = "person";
  lastEvent = 0;
  watching = null; // the newest such message
  #parts = {};
  #picture;
  #video;
  #transport;
  #turnedAt = 0; // when the kind of picture changed
  #frame = null; // header of the picture that is shown
  #lateness = new Meter(); // of results behind their pictures
  #gaps = new Meter(); // between results
  #boxes;
  #stream;
  #status = null;
  #stateHeader = null;
  #lostAt = now();
  #refusal = "";
  #drawnAt = null;
  #frames = new Meter();
  #latencies = new Meter();
  #isDrawing = false;
  #page;

  /** `page` has onState(card), onHello(header, card), onNode(header) and onLost(attempt). */
  constructor(camera, template, page) {
    this.camera = camera;
    this.#page = page;
    this.node = template.content.firstElementChild.cloneNode(true);
    this.node.dataset.camera = camera;
    for (const part of this.node.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    setText(this.#one(".name"), camera);
    this.#one(".open").setAttribute("aria-label", `Show ${camera} large`);
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

  /** The user wants other pictures. */
  choosePictures() {
    setText(this.#parts.transport, `Pictures: ${CHOICES[preference()]}`);
    this.#transport.decide();
  }

  close() {
    this.#stream.close();
    this.#video.restart();
    this.node.remove();
  }

  // --- what the stream tells

  onOpen() {
    this.#video.restart();
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

  onMessage(header, image) {
    if (header.type === "video") this.#video.push(header, image);
    else if (header.type === "frame") this.#picture.show(header, image);
    else if (header.type === "stream") this.#transport.offered(header.video, header.reason);
    else if (header.type === "detections") {
      this.#waitForBoxes(header);
      this.#boxes.add(header, now());
      this.#drawBoxes();
      this.#tellResult(header);
    } else if (header.type === "state") this.#tellState(header);
    else if (header.type === "status") this.#tellStatus(header);
    else if (header.type === "watching") this.#tellWatching(header);
    else if (header.type === "node") this.#page.onNode(header);
    else if (header.type === "hello") this.#page.onHello(header, this);
  }

  /** Once a second: figures that change by themselves. */
  tick() {
    const time = now();
    this.#transport.tick(time);
    const isWaiting = this.#waitsForKeyFrame(time);
    if (isWaiting && time - Math.max(this.#turnedAt, this.#drawnAt ?? 0) > GIVE_UP_MS) this.#transport.failed("no key frame has come", time);
    const rate = this.#frames.rate(time);
    setText(this.#parts.fps, rate ? `${rate < 10 ? rate.toFixed(1) : Math.round(rate)} fps` : "–");
    const latency = this.#status?.capture_clock === "media" ? null : this.#latencies.median(time);
    setText(this.#parts.latency, this.#latencyText(latency));
    this.#parts.latency.title = CLOCKS[this.#status?.capture_clock] ?? "";
    this.node.dataset.latency = latency === null ? "" : latency.toFixed(1);
    const since = this.#stateHeader?.since_unix_ms;
    setText(this.#parts.since, since ? `${duration(time + (this.#stream.clock.offset ?? 0) - since)} (${clockTime(since)})` : "–");
    this.#cover();
    this.#drawBoxes();
  }

  #latencyText(latency) {
    if (latency === null) return "–";
    const lead = this.#status?.capture_clock === "arrival" ? "≥ " : "";
    // How well both clocks are known to agree; on a busy line or page that matters.
    const error = this.#stream.clock.error ?? 0;
    const doubt = error > 50 && error > latency / 5 ? ` ± ${milliseconds(error)}` : "";
    return `${lead}${milliseconds(Math.max(0, latency))}${doubt}`;
  }

  // --- parts of the page

  #one(selector) {
    return this.node.querySelector(selector);
  }

  /** Pictures of another kind are wanted from here on. */
  #turn() {
    this.#turnedAt = now();
    this.#video.restart();
    this.#picture.isOff = false;
    this.#stream.video = this.#transport.video;
    this.node.dataset.transport = this.#transport.isVideo ? "video" : "jpeg";
    this.#parts.picture.title = this.#transport.isVideo ? "" : `JPEG: ${this.#transport.reason}`;
  }

  /** Whether the camera delivers, but its video cannot be shown: decoding starts at a key frame only. */
  #waitsForKeyFrame(time) {
    const isLive = this.#stream?.isOpen && this.#status?.state === "live" && !this.node.hasAttribute("data-paused");
    const { frame, needsKey } = this.#video;
    if (!this.#transport.isVideo || !isLive || time - this.#turnedAt < NO_KEY_FRAME_MS) return false;
    if (frame === null) return true;
    const isBehind = this.#boxes.newest?.capture_unix_ms > frame.capture_unix_ms + NO_KEY_FRAME_MS;
    return time - this.#drawnAt > NO_KEY_FRAME_MS && (needsKey || isBehind);
  }

  /** While there are boxes, video waits for theirs, so that they are where the person is; without any it does not. */
  #waitForBoxes(result) {
    const time = now();
    const newest = this.#boxes.newest;
    if (newest) this.#gaps.add(time, result.capture_unix_ms - newest.capture_unix_ms);
    const came = this.#video.arrival(result.capture_unix_ms);
    if (came !== null) this.#lateness.add(time, time - came);
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
    // Until the browser has composed the picture on the screen, about one refresh goes by.
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

  #tellResult(result) {
    const counts = new Map();
    for (const box of result.boxes) counts.set(box.label, (counts.get(box.label) ?? 0) + 1);
    const text = [...counts].map(([label, count]) => (count > 1 ? `${count} × ${label}` : label)).join(", ");
    setText(this.#parts.found, text || "nothing");
    setText(this.#parts.inference, `${result.infer_ms.toFixed(1)} ms, ${result.total_ms.toFixed(1)} in all`);
    setText(this.#parts.model, result.engine ? `${result.model}, ${result.engine}` : result.model);
  }

  #tellState(header) {
    this.#stateHeader = header;
    this.state = header.state;
    this.visitClass = header.visit_class || "person";
    this.lastEvent = header.last_event;
    this.#showState();
    this.#page.onState(this);
  }

  /** An all-clear holds only while the camera is watched. */
  #showState() {
    const isStale = this.state === "standby" && this.watching?.watching === false;
    const state = isStale || !STATES[this.state] ? "unknown" : this.state;
    this.node.dataset.state = state;
    setText(this.#parts.state, STATES[state]);
    this.#parts.state.title = this.#stateHeader?.reason ?? "";
  }

  #tellWatching(header) {
    this.watching = header;
    this.#showState();
    this.#cover();
    this.#page.onState(this);
  }

  #tellStatus(header) {
    this.#status = header;
    const rate = header.source_fps ? ` at ${+header.source_fps.toFixed(1)} fps` : "";
    const again = header.reconnects ? `, opened again ${header.reconnects} ×` : "";
    setText(this.#parts.source, header.source_kind ? `${header.source_kind}${rate}${again}` : "–");
    this.#cover();
  }

  /** Says over the picture why it is not live; a stale picture never looks like a live one. */
  #cover() {
    const [kind, title, text] = this.#trouble();
    this.node.dataset.trouble = kind;
    setText(this.#one(".cover-title"), title);
    setText(this.#one(".cover-text"), text);
  }

  #trouble() {
    const since = this.#status?.since_unix_ms ? ` since ${clockTime(this.#status.since_unix_ms)}` : "";
    const message = this.#status?.message ?? "";
    if (this.#lostAt !== null && (this.#drawnAt === null || now() - this.#lostAt > 1500)) {
      const last = this.#drawnAt ? `last picture at ${clockTime(this.#drawnAt)}` : "";
      return ["connection", this.#refusal ? "No connection" : "Connecting…", this.#refusal || last];
    }
    if (this.#status === null) return ["waiting", "Waiting…", ""];
    if (this.#status.state === "offline") return ["offline", `Camera offline${since}`, message];
    if (this.#status.state === "frozen") return ["frozen", `Picture frozen${since}`, message];
    if (this.#status.state === "blind") return ["blind", `Camera cannot see${since}`, message];
    if (this.#status.state === "ended") return ["ended", "The recording has ended", message];
    if (this.#waitsForKeyFrame(now())) return ["waiting", "Waiting for a key frame…", "the video can start at one only"];
    const isPaused = this.node.hasAttribute("data-paused"); // no pictures were asked for
    if (this.#drawnAt === null && !isPaused) return ["waiting", "Waiting for the first picture…", message];
    const age = now() - (this.#drawnAt ?? now());
    if (age > OLD_MS && !isPaused) return ["old", "No new picture", `for ${duration(age)}`];
    const watching = this.watching;
    if (watching?.watching === false) {
      const known = watching.since_unix_ms ? ` since ${clockTime(watching.since_unix_ms)}` : "";
      return ["unwatched", `Not watching${known}`, watching.reason];
    }
    return ["", "", ""];
  }
}
