// Draws detections over the picture that they belong to, and fades them as they become stale.

import { resize } from "./dom.js";

const LONGEST_GAP_MS = 1500; // between two results whose boxes are interpolated
const KEPT = 32; // results kept, some newer and some older than the picture
// By class ID; person (1) is the second.
const COLORS = ["#f2b65a", "#5fe0b7", "#6ea8fe", "#e58aa8", "#b79bff", "#9bd45f", "#ff9670", "#5fd3e8"];

/** The result whose sequence is nearest to the picture's; of two equally near ones, the earlier in the list. */
export function bestMatch(results, sequence) {
  let best = null;
  for (const result of results) {
    const distance = Math.abs(result.sequence - sequence);
    if (best === null || distance < Math.abs(best.sequence - sequence)) best = result;
  }
  return best;
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  return (width * height) / (area(a) + area(b) - width * height);
}

/** Pairs the boxes of two results: by track, otherwise by the best overlap within a class. */
function pairs(before, after) {
  const free = new Set(after.boxes);
  return before.boxes.map((box) => {
    let best = null;
    let most = 0.1;
    for (const other of free) {
      if (box.class !== other.class) continue;
      const shared = box.track && box.track === other.track ? 2 : overlap(box.xyxy, other.xyxy);
      if (shared > most) [best, most] = [other, shared];
    }
    free.delete(best);
    return [box, best];
  });
}

/**
 * The boxes at the capture time `captureMs`: those of the picture's own result, or interpolated between two results.
 * Returns a result with `distance`, the time to the nearest result (ms); null without results.
 */
export function boxesAt(results, captureMs) {
  let before = null;
  let after = null;
  for (const result of results) {
    if (result.capture_unix_ms <= captureMs + 0.5) before = result;
    else after ??= result;
  }
  if (!before && !after) return null;
  const distance = (result) => (result ? Math.abs(result.capture_unix_ms - captureMs) : Infinity);
  const nearest = distance(before) <= distance(after) ? before : after;
  const isOwn = distance(nearest) < 0.5;
  if (isOwn || !before || !after || after.capture_unix_ms - before.capture_unix_ms > LONGEST_GAP_MS) {
    return { ...nearest, distance: distance(nearest) };
  }
  const part = (captureMs - before.capture_unix_ms) / (after.capture_unix_ms - before.capture_unix_ms);
  const boxes = [];
  for (const [from, to] of pairs(before, after)) {
    if (to) boxes.push({ ...from, xyxy: from.xyxy.map((value, index) => value + (to.xyxy[index] - value) * part) });
    else if (nearest === before) boxes.push(from);
  }
  if (nearest === after) {
    const paired = new Set(pairs(before, after).map(([, to]) => to));
    boxes.push(...after.boxes.filter((box) => !paired.has(box)));
  }
  return { ...nearest, boxes, distance: 0 };
}

/** 1 up to `full`, then decreasing to 0 at `gone`. */
export function fade(value, full, gone) {
  return Math.min(1, Math.max(0, (gone - value) / (gone - full)));
}

/** Opacity of boxes, by the time between their frame and the picture and by the age of their result (ms). */
export function opacity(distanceMs, ageMs) {
  return Math.min(fade(distanceMs, 500, 1500), fade(ageMs, 2500, 4000));
}

export class Boxes {
  isShown = true;
  #canvas;
  #context;
  #results = []; // oldest first

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  add(result, arrived) {
    // The sequence has gone backwards: the camera's ring was recreated.
    if (this.#results.length && result.sequence < this.#results.at(-1).sequence) this.#results = [];
    this.#results.push({ ...result, arrived });
    if (this.#results.length > KEPT) this.#results.shift();
  }

  get newest() {
    return this.#results.at(-1) ?? null;
  }

  /** Draws the boxes of `frame` at `time`; returns whether boxes are visible, which must be redrawn to fade. */
  draw(frame, time) {
    const { width, height, ratio } = this.#fit();
    this.#context.clearRect(0, 0, width, height);
    const result = frame && this.isShown ? this.#of(frame) : null;
    this.#canvas.dataset.boxes = result ? JSON.stringify(result.boxes.map((box) => box.xyxy)) : "";
    this.#canvas.dataset.sequence = result ? result.sequence : "";
    if (!result || result.boxes.length === 0) return false;
    const distance = result.distance ?? Math.abs(result.capture_unix_ms - frame.capture_unix_ms);
    const alpha = opacity(distance, time - result.arrived);
    if (alpha <= 0) return false;
    this.#context.globalAlpha = alpha;
    const scale = Math.min(width / result.width, height / result.height);
    const left = (width - result.width * scale) / 2;
    const top = (height - result.height * scale) / 2;
    // The best box is drawn last, so that its label is on top.
    for (const box of [...result.boxes].reverse()) this.#drawBox(box, scale, left, top, ratio);
    this.#context.globalAlpha = 1;
    return true;
  }

  /** JPEGs have the sequence of their frame; packets of the camera's own video have a capture time only. */
  #of(frame) {
    if (frame.sequence !== undefined) return bestMatch(this.#results, frame.sequence);
    return boxesAt(this.#results, frame.capture_unix_ms);
  }

  #drawBox(box, scale, left, top, ratio) {
    const context = this.#context;
    const [x1, y1, x2, y2] = box.xyxy.map((value, index) => value * scale + (index % 2 ? top : left));
    const color = COLORS[box.class % COLORS.length];
    const line = 2 * ratio;
    context.lineWidth = line + 2 * ratio;
    context.strokeStyle = "rgb(8 12 16 / 55%)";
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.lineWidth = line;
    context.strokeStyle = color;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);

    const size = 12 * ratio;
    context.font = `600 ${size}px system-ui, sans-serif`;
    const text = `${box.label} ${Math.round(box.score * 100)} %`;
    const width = context.measureText(text).width + 10 * ratio;
    const height = size + 7 * ratio;
    const x = Math.min(Math.max(0, x1 - line / 2), Math.max(0, this.#canvas.width - width));
    const y = y1 >= height ? y1 - height : y1;
    context.fillStyle = color;
    context.beginPath();
    context.roundRect(x, y, width, height, 3 * ratio);
    context.fill();
    context.fillStyle = "#0b1015";
    context.textBaseline = "middle";
    context.fillText(text, x + 5 * ratio, y + height / 2 + 0.5 * ratio);
  }

  /** Sizes the canvas to one pixel per device pixel. */
  #fit() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(this.#canvas.clientWidth * ratio);
    const height = Math.round(this.#canvas.clientHeight * ratio);
    resize(this.#canvas, width, height);
    return { width, height, ratio };
  }
}
