// The camera's own video: decodes packets with WebCodecs, and shows each picture when it is its turn.

import { now } from "./clock.js";

const MOST_WAITING = 40; // pictures that are decoded and not shown yet
const ACK_EVERY = 6; // packets
const TOO_MANY_ERRORS = 3; // between two pictures
const LONGEST_GAP_MS = 500; // between pictures
const MOST_REORDERED = 4; // pictures: B-frames beyond that come too late
const NAMES = { avc1: "H.264", avc3: "H.264", hvc1: "H.265", hev1: "H.265" };

/** The name of a codec for people. */
export function codecName(codec) {
  return NAMES[codec.split(".")[0]] ?? codec;
}

/** What VideoDecoder.configure takes, from the `video` of a `stream` message. */
export function decoderConfig({ codec, description, width, height }) {
  const config = { codec, codedWidth: width, codedHeight: height, optimizeForLatency: true };
  if (description) config.description = Uint8Array.from(atob(description), (letter) => letter.charCodeAt(0));
  else if (codec.startsWith("avc")) config.avc = { format: "annexb" };
  else config.hevc = { format: "annexb" };
  return config;
}

/** Why this browser cannot show a stream; empty: it can. `force`: try all that has a decoder. */
export async function whyNot(video, force = false) {
  if (!window.isSecureContext) return "browsers decode video only over HTTPS or on localhost";
  if (!("VideoDecoder" in window)) return "this browser has no WebCodecs";
  if (!force && video.reorder > MOST_REORDERED) return `${video.reorder} reordered pictures (B-frames) would come too late`;
  try {
    const { supported } = await VideoDecoder.isConfigSupported(decoderConfig(video));
    return supported ? "" : `this browser does not decode ${codecName(video.codec)} (${video.codec})`;
  } catch (error) {
    return `this browser does not know ${video.codec}: ${error.message}`;
  }
}

/** The delay of the next picture (ms): towards `wanted`, slower than time itself, so that pictures never stand still. */
export function approach(delay, wanted, elapsed) {
  return wanted > delay ? Math.min(wanted, delay + elapsed / 2) : Math.max(wanted, delay - elapsed);
}

export class Video {
  frame = null; // header of the picture that is shown
  wantedDelay = 0; // ms that pictures wait, so that their boxes can come
  #canvas;
  #context;
  #listener;
  #decoder = null;
  #config = null;
  #isView = false; // the packets are those of the camera's second stream
  needsKey = true; // the next packet to decode must be a key frame
  #headers = new Map(); // by timestamp, of the packets that are being decoded
  #arrivals = new Map(); // by capture time: when the picture came (ms)
  #waiting = []; // {picture, header, at}, oldest first
  #delay = 0;
  #lastTurn = 0;
  #isScheduled = false;
  #received = 0;
  #acknowledged = 0;
  #errors = 0;

  /** `listener` has onDrawn(header), onFailed(reason), onViewFailed(reason), onPackets(count) and size(): [width, height] or null. */
  constructor(canvas, listener) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false, desynchronized: false });
    this.#listener = listener;
  }

  /** Begins again: another connection, or pictures after something else. */
  restart() {
    this.#close();
    this.#config = null;
    this.#received = this.#acknowledged = this.#errors = this.#delay = 0;
    this.frame = null;
  }

  push(header, data) {
    this.#received += 1;
    if ("config" in header) this.#configure(header.config, header.view);
    if (header.restart) this.needsKey = true;
    if (this.#config && (header.key || !this.needsKey)) {
      this.#decode(header, data);
    }
    this.#acknowledge();
  }

  /** When the picture of this capture time came (ms), or null; of the second stream the next picture after it. */
  arrival(captureMs) {
    if (!this.#isView) return this.#arrivals.get(captureMs) ?? null;
    for (const [captured, came] of this.#arrivals) {
      if (captured >= captureMs) return captured - captureMs < LONGEST_GAP_MS ? came : null;
    }
    return null;
  }

  async #configure(config, isView) {
    this.#close();
    this.#config = config;
    this.#isView = isView;
    if (config === null) this.#fail("the stream has changed to a codec without a decoder");
    else if (isView) {
      const reason = await whyNot(config); // what was offered, and decided on, is the first stream
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

  /** Forgets what is in the decoder: the packets that would complete it were lost. */
  #flush() {
    this.#decoder.reset();
    this.#decoder.configure(decoderConfig(this.#config));
    this.#headers.clear();
  }

  #failed(decoder, error) {
    if (decoder !== this.#decoder) return;
    this.#closeDecoder();
    this.#errors += 1;
    if (this.#errors >= TOO_MANY_ERRORS) this.#fail(`this browser cannot decode it: ${error.message}`);
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

  #acknowledge() {
    const done = this.#received - (this.#decoder?.decodeQueueSize ?? 0);
    if (done - this.#acknowledged < ACK_EVERY) return;
    this.#acknowledged = done;
    this.#listener.onPackets(done);
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

  /** Shows the newest picture whose turn has come. */
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
    // The pixels of some cameras are not square: the size of the analysed frames is the right one
    const size = this.#listener.size();
    const height = size ? Math.round((width * size[1]) / size[0]) : natural;
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
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
