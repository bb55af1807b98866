// Decodes and draws JPEGs: one is decoded while at most one waits; a newer one replaces the waiting one.

import { resize } from "./dom.js";

export class Picture {
  isOff = false; // the canvas shows the video instead
  #canvas;
  #context;
  #waiting = null;
  #isBusy = false;
  #onDrawn;
  #onDone;

  /** `onDrawn(header)`: a frame is on the canvas. `onDone()`: a frame was drawn or skipped. */
  constructor(canvas, onDrawn, onDone) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#onDrawn = onDrawn;
    this.#onDone = onDone;
  }

  show(header, image) {
    if (this.#waiting) this.#onDone();
    this.#waiting = { header, image };
    if (!this.#isBusy) this.#work();
  }

  async #work() {
    this.#isBusy = true;
    while (this.#waiting) {
      const { header, image } = this.#waiting;
      this.#waiting = null;
      try {
        const bitmap = await createImageBitmap(new Blob([image], { type: "image/jpeg" }));
        this.#draw(header, bitmap);
        bitmap.close();
      } catch {
        // A broken picture: the next one may be valid.
      }
      this.#onDone();
    }
    this.#isBusy = false;
  }

  #draw(header, bitmap) {
    if (this.isOff) return;
    resize(this.#canvas, bitmap.width, bitmap.height);
    this.#context.drawImage(bitmap, 0, 0);
    this.#onDrawn(header);
  }
}
