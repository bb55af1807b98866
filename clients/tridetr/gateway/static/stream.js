// One WebSocket per camera, which reconnects indefinitely; with jitter, so that viewers do not reconnect all at once.

import { ClockOffset, now } from "./clock.js";

const PROTOCOL = "tridetr.v1";
const PING_MS = 2000;
const QUICK_PINGS = 4;
const SILENCE_MS = 12_000; // six pings without an answer
const LONGEST_WAIT_MS = 5000;
const STEADY_MS = 5000; // a connection that was lost earlier counts as a failed attempt
const EXPLAIN_EVERY = 3; // failed attempts
const NOT_UPGRADED =
  "The gateway answers, but the WebSocket cannot be opened. A reverse proxy must pass the Upgrade header on.";

/** Returns why a request was refused. */
async function refusal(response) {
  try {
    return (await response.json()).error;
  } catch {
    return (
      `A reverse proxy answers with status ${response.status} instead of the gateway. ` +
      "It must reach the gateway, and pass WebSocket and POST requests on."
    );
  }
}

const decoder = new TextDecoder("utf-8", { fatal: true });

/**
 * Unpacks a message of the gateway: u32 little-endian length of the JSON | JSON | image.
 * Returns {header, image}; throws an error if the message violates the protocol.
 */
export function unpack(buffer) {
  if (buffer.byteLength < 4) throw new Error("message too short");
  const length = new DataView(buffer).getUint32(0, true);
  if (length > buffer.byteLength - 4) throw new Error("header longer than the message");
  const header = JSON.parse(decoder.decode(new Uint8Array(buffer, 4, length)));
  if (header === null || typeof header !== "object") throw new Error("header is not an object");
  return { header, image: new Uint8Array(buffer, 4 + length) };
}

/** Milliseconds to wait before an attempt (counted from 0): 100 to 200 at first, doubling up to LONGEST_WAIT_MS. */
export function reconnectDelay(attempt, random = Math.random()) {
  return Math.min(LONGEST_WAIT_MS, 200 * 2 ** Math.min(attempt, 10)) * (0.5 + random / 2);
}

export class Stream {
  clock = new ClockOffset();
  isOpen = false;
  #address;
  #listener;
  #socket = null;
  #timer = 0;
  #pinger = 0;
  #attempt = 0;
  #pings = 0;
  #heard = 0;
  #wokenAt = 0; // answers to earlier pings are from before the computer slept
  #greeted = 0; // when the gateway said hello; 0 if it has not
  #frames = 0;
  #packets = 0;
  #view = { size: "small", paused: false, video: false };
  #closed = false;

  /** `listener` has onMessage(header, image), onPong(), onOpen(), onLost(attempt) and onRefused(reason). */
  constructor(camera, listener) {
    this.#address = new URL(`ws/${encodeURIComponent(camera)}`, document.baseURI);
    this.#address.hash = "";
    this.#listener = listener;
    this.#connect();
  }

  /** Sets the picture size ("small" or "full") and whether pictures are paused. */
  view(size, paused) {
    if (size === this.#view.size && paused === this.#view.paused) return;
    this.#view = { ...this.#view, size, paused };
    this.#sendView();
  }

  /** Selects the camera's own video (true or "source") instead of JPEGs. */
  set video(video) {
    if (video === this.#view.video) return;
    this.#view = { ...this.#view, video };
    this.#sendView();
  }

  /** Acknowledges a frame that was shown or skipped, so that the gateway may send another. */
  acknowledge() {
    this.#frames += 1;
    this.#sendAck();
  }

  /** Acknowledges the number of video packets decoded since the socket was opened. */
  acknowledgePackets(packets) {
    this.#packets = packets;
    this.#sendAck();
  }

  /** Reconnects now instead of after the wait, or pings (the network is back, or the page is visible again). */
  hurry() {
    if (this.isOpen) this.#ping();
    else if (this.#socket === null && !this.#closed) {
      clearTimeout(this.#timer);
      this.#connect();
    }
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#drop();
  }

  #connect() {
    const address = new URL(this.#address);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.search = `size=${this.#view.size}`;
    const socket = new WebSocket(address, PROTOCOL);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#heard = now();
    socket.onopen = () => {
      this.isOpen = true;
      this.#frames = this.#packets = 0;
      this.#pings = 0;
      this.clock.reset();
      this.#sendView();
      this.#ping();
      this.#listener.onOpen();
    };
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = () => {
      if (socket === this.#socket) this.#lost();
    };
    clearInterval(this.#pinger);
    this.#pinger = setInterval(() => this.#watch(), 1000);
  }

  #receive(data) {
    this.#keepClock(); // in hidden pages, timers run once a minute
    this.#heard = now();
    let message;
    try {
      message = unpack(data);
    } catch {
      return; // not a message of this protocol
    }
    const { header, image } = message;
    if (header.type === "pong") {
      if (header.t >= this.#wokenAt) this.clock.add(header.t, header.server_unix_ms, now());
      if (this.#pings < QUICK_PINGS) this.#ping();
      this.#listener.onPong();
      return;
    }
    if (header.type === "hello") this.#greeted = now();
    this.#listener.onMessage(header, image);
  }

  #watch() {
    if (now() - this.#heard > SILENCE_MS) {
      this.#drop();
      this.#lost();
    } else if (this.isOpen) this.#keepClock();
  }

  #keepClock() {
    const hasSlept = this.clock.forgetSleep();
    if (hasSlept) this.#wokenAt = now();
    if (hasSlept || now() - this.#pinged > PING_MS) this.#ping();
  }

  #pinged = 0;

  #ping() {
    this.#pings += 1;
    this.#pinged = now();
    this.#send({ type: "ping", t: now() });
  }

  #sendAck() {
    this.#send({ type: "ack", frames: this.#frames, packets: this.#packets });
  }

  #sendView() {
    this.#send({ type: "view", window: 2, ...this.#view });
  }

  #send(command) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(command));
  }

  /** Asks why the WebSocket was refused, which browsers do not show: the URL answers a POST with the same refusal. */
  async #explain() {
    let reason = "";
    try {
      const response = await fetch(this.#address, { method: "POST" });
      reason = response.ok ? NOT_UPGRADED : await refusal(response);
    } catch {
      // The gateway cannot be reached.
    }
    if (!this.isOpen && !this.#closed) this.#listener.onRefused(reason);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.isOpen = false;
    clearInterval(this.#pinger);
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  #lost() {
    this.#drop();
    if (this.#closed) return;
    if (this.#greeted && now() - this.#greeted > STEADY_MS) this.#attempt = 0;
    this.#greeted = 0;
    this.#listener.onLost(this.#attempt);
    if (this.#attempt % EXPLAIN_EVERY === EXPLAIN_EVERY - 1) this.#explain();
    this.#timer = setTimeout(() => this.#connect(), reconnectDelay(this.#attempt));
    this.#attempt += 1;
  }
}
