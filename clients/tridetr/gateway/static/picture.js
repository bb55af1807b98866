// Decodes and draws pictures: at most one is being decoded and one waits; a newer one replaces the waiting one.

export class Picture {
  frame = null; // header of the frame that is shown
  isOff = false; // something else is shown on the canvas
  #canvas;
  #context;
  #waiting = null;
  #isBusy = false;
  #onDrawn;
  #onDone;

  /** `onDrawn(header)`: it is on the canvas. `onDone()`: a frame was drawn or given up. */
  constructor(canvas, onDrawn, onDone) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false, desynchronized: false });
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
        // A broken picture: the next one may be whole.
      }
      this.#onDone();
    }
    this.#isBusy = false;
  }

  #draw(header, bitmap) {
    if (this.isOff) return;
    if (this.#canvas.width !== bitmap.width || this.#canvas.height !== bitmap.height) {
      this.#canvas.width = bitmap.width;
      this.#canvas.height = bitmap.height;
    }
    this.#context.drawImage(bitmap, 0, 0);
    this.frame = header;
    this.#onDrawn(header);
  }
}
