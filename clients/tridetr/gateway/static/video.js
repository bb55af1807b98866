// Decodes the camera's own video with WebCodecs, and shows each picture after the current delay.

import { now } from "./clock.js";
import { resize } from "./dom.js";

const MOST_WAITING = 40; // decoded pictures that have not been shown yet
const ACK_EVERY = 6; // packets, if more come than that within ACK_MS
const ACK_MS = 150;
const SKIPS = 3; // within SKIPS_MS: the connection is too slow for the video
const SKIPS_MS = 30_000;
const TOO_MANY_ERRORS = 3; // between two pictures
const LONGEST_GAP_MS = 500; // between pictures
const MOST_REORDERED = 4; // pictures; more B-frames delay the video too much
const NAMES = { avc1: "H.264", avc3: "H.264", hvc1: "H.265", hev1: "H.265" };

/** The display name of a codec. */
export function codecName(codec) {
  return NAMES[codec.split(".")[0]] ?? codec;
}

/** The argument of VideoDecoder.configure for the `video` of a `stream` message. */
export function decoderConfig({ codec, description, width, height }) {
  const config = { codec, codedWidth: width, codedHeight: height, optimizeForLatency: true };
  if (description) config.description = Uint8Array.from(atob(description), (letter) => letter.charCodeAt(0));
  else if (codec.startsWith("avc")) config.avc = { format: "annexb" };
  else config.hevc = { format: "annexb" };
  return config;
}

/** Why this browser cannot show a stream; empty if it can. `force`: accept any stream that has a decoder. */
export async function whyNot(video, force = false) {
  if (!window.isSecureContext) return "browsers decode video only over HTTPS or on localhost";
  if (!("VideoDecoder" in window)) return "this browser does not support WebCodecs";
  if (!force && video.reorder > MOST_REORDERED) return `${video.reorder} reordered pictures (B-frames) would delay the video too much`;
  try {
    const { supported } = await VideoDecoder.isConfigSupported(decoderConfig(video));
    return supported ? "" : `this browser does not decode ${codecName(video.codec)} (${video.codec})`;
  } catch (error) {
    return `this browser does not support ${video.codec}: ${error.message}`;
  }
}

/** The delay of the next picture (ms): it grows towards `wanted` slower than time passes, so that video never stops. */
export function approach(delay, wanted, elapsed) {
  return wanted > delay ? Math.min(wanted, delay + elapsed / 2) : Math.max(wanted, delay - elapsed);
}

export class Video {
  frame = null; // header of the picture that is shown
  wantedDelay = 0; // ms that pictures wait for their boxes
  #canvas;
  #context;
  #listener;
  #decoder = null;
  #config = null;
  #isView = false; // whether the packets are from the camera's second stream
  needsKey = true; // the next packet to decode must be a key frame
  #headers = new Map(); // by timestamp, of the packets that are being decoded
  #arrivals = new Map(); // by capture time: when the picture was decoded (ms)
  #waiting = []; // {picture, header, at}, oldest first
  #delay = 0;
  #lastTurn = 0;
  #isScheduled = false;
  #received = 0;
  #acknowledged = 0;
  #acknowledgedAt = 0;
  #timer = 0;
  #packet = null; // number of the newest packet
  #arrivedAt = 0; // when it arrived
  #skips = []; // when the gateway left out packets, because the connection is too slow
  #errors = 0;

  /** `listener` has onDrawn(header), onFailed(reason), onViewFailed(reason), onPackets(count) and size(): [width, height] or null. */
  constructor(canvas, listener) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#listener = listener;
  }

  /** Starts over, after another transport. */
  restart() {
    this.#close();
    this.#config = null;
    this.#errors = this.#delay = 0;
    this.#packet = null;
    this.#skips = [];
    this.frame = null;
  }

  /** Starts over, for a new connection. */
  reconnect() {
    this.restart();
    clearTimeout(this.#timer);
    this.#received = this.#acknowledged = this.#timer = 0;
  }

  /** Whether the gateway has left out packets again and again, which it does if the connection does not carry them. */
  get isSkipping() {
    return this.#skips.length >= SKIPS && now() - this.#skips.at(-SKIPS) < SKIPS_MS;
  }

  /** When the newest packet arrived (ms). */
  get arrivedAt() {
    return this.#arrivedAt;
  }

  /** Takes in a packet; one that is not wanted any more, because it came after the change to JPEGs, is only acknowledged. */
  push(header, data, isWanted) {
    this.#received += 1;
    if (!isWanted) {
      this.#acknowledge();
      return;
    }
    this.#arrivedAt = now();
    if ("config" in header) this.#packet = null; // another stream may have other numbers
    if (this.#packet !== null && header.packet > this.#packet + 1) this.#skips = [...this.#skips.slice(1 - SKIPS), now()];
    this.#packet = header.packet;
    if ("config" in header) this.#configure(header.config, header.view);
    if (header.restart) this.needsKey = true;
    if (this.#config && (header.key || !this.needsKey)) this.#decode(header, data);
    this.#acknowledge();
  }

  /** When the picture with a capture time was decoded (ms), or null; in the second stream, the next picture counts. */
  arrival(captureMs) {
    if (!this.#isView) return this.#arrivals.get(captureMs) ?? null;
    for (const [captured, arrived] of this.#arrivals) {
      if (captured >= captureMs) return captured - captureMs < LONGEST_GAP_MS ? arrived : null;
    }
    return null;
  }

  async #configure(config, isView) {
    this.#close();
    this.#config = config;
    this.#isView = isView;
    if (config === null) this.#fail("the stream has changed to a codec that browsers cannot decode");
    else if (isView) {
      const reason = await whyNot(config); // the earlier check was for the first stream
      if (reason && this.#config === config) this.#fail(reason);
    }
  }

  #fail(reason) {
    if (this.#isView) this.#listener.onViewFailed(reason);
    else this.#listener.onFailed(reason);
  }

  #open() {
    const decoder = new VideoDecoder({
      output: (picture) => this.#decoded(picture),
      error: (error) => this.#failed(decoder, error),
    });
    decoder.configure(decoderConfig(this.#config));
    this.#decoder = decoder;
  }

  #decode(header, data) {
    try {
      if (this.#decoder === null) this.#open();
      else if (this.needsKey) this.#flush();
      this.needsKey = false;
      this.#headers.set(header.timestamp_us, header);
      const type = header.key ? "key" : "delta";
      this.#decoder.decode(new EncodedVideoChunk({ type, timestamp: header.timestamp_us, data }));
    } catch (error) {
      this.#failed(this.#decoder, error);
    }
  }

  /** Discards the packets in the decoder, because following ones were lost. */
  #flush() {
    this.#decoder.reset();
    this.#decoder.configure(decoderConfig(this.#config));
    this.#headers.clear();
  }

  #failed(decoder, error) {
    if (decoder !== this.#decoder) return;
    this.#closeDecoder();
    this.#errors += 1;
    if (this.#errors >= TOO_MANY_ERRORS) this.#fail(`this browser cannot decode the video: ${error.message}`);
  }

  #decoded(picture) {
    const header = this.#headers.get(picture.timestamp);
    if (!header) {
      picture.close();
      return;
    }
    this.#errors = 0;
    for (const timestamp of this.#headers.keys()) {
      this.#headers.delete(timestamp);
      if (timestamp === picture.timestamp) break;
    }
    this.#arrivals.set(header.capture_unix_ms, now());
    if (this.#arrivals.size > 256) this.#arrivals.delete(this.#arrivals.keys().next().value);
    this.#waiting.push({ picture, header, at: now() });
    while (this.#waiting.length > MOST_WAITING) this.#waiting.shift().picture.close();
    this.#acknowledge();
    this.#show();
    if (this.#waiting.length) this.#schedule();
  }

  /** Acknowledges packets soon, because the gateway sends no more until it knows that they have arrived. */
  #acknowledge() {
    const done = this.#received - (this.#decoder?.decodeQueueSize ?? 0);
    const wait = this.#acknowledgedAt + ACK_MS - now();
    if (done > this.#acknowledged && (wait <= 0 || done - this.#acknowledged >= ACK_EVERY)) {
      this.#acknowledged = done;
      this.#acknowledgedAt = now();
      this.#listener.onPackets(done);
    }
    if (this.#received === this.#acknowledged || this.#timer) return;
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.#acknowledge();
    }, Math.max(wait, ACK_MS / 3));
  }

  #schedule() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    requestAnimationFrame(() => {
      this.#isScheduled = false;
      this.#show();
      if (this.#waiting.length) this.#schedule();
    });
  }

  /** Shows the newest picture that is due. */
  #show() {
    const time = now();
    this.#delay = approach(this.#delay, this.wantedDelay, Math.min(200, time - this.#lastTurn));
    this.#lastTurn = time;
    let shown = null;
    while (this.#waiting.length && this.#waiting[0].at <= time - this.#delay) {
      shown?.picture.close();
      shown = this.#waiting.shift();
    }
    if (shown === null) return;
    this.#draw(shown.picture, shown.header);
    shown.picture.close();
  }

  #draw(picture, header) {
    const turns = (this.#config?.rotation ?? 0) / 90;
    const sides = [picture.visibleRect.width, picture.visibleRect.height];
    const [width, natural] = turns % 2 ? sides.reverse() : sides;
    // Some cameras have non-square pixels: use the aspect ratio of the analysed frames.
    const size = this.#listener.size();
    const height = size ? Math.round((width * size[1]) / size[0]) : natural;
    resize(this.#canvas, width, height);
    this.#context.save();
    this.#context.translate(width / 2, height / 2);
    this.#context.rotate((turns * Math.PI) / 2);
    const [across, down] = turns % 2 ? [height, width] : [width, height];
    this.#context.drawImage(picture, -across / 2, -down / 2, across, down);
    this.#context.restore();
    this.frame = { ...header, width, height, image_width: width, image_height: height, codec: this.#config?.codec ?? "" };
    this.#listener.onDrawn(this.frame);
  }

  #closeDecoder() {
    if (this.#decoder && this.#decoder.state !== "closed") this.#decoder.close();
    this.#decoder = null;
    this.needsKey = true;
    this.#headers.clear();
  }

  #close() {
    this.#closeDecoder();
    for (const { picture } of this.#waiting) picture.close();
    this.#waiting = [];
    this.#arrivals.clear();
  }
}
