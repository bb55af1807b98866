// The dialog of one visit: its picture with or without boxes, its clip, and links to download and share them.

import { classText, clockTime, duration, setText } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

export class VisitDetail {
  #dialog;
  #visit = null;
  #showsBoxes = true;
  #onStep;

  /** `onStep(id)` opens another visit; `onClose()` is called when the user has closed the dialog. */
  constructor(dialog, { onStep, onClose }) {
    this.#dialog = dialog;
    this.#onStep = onStep;
    this.#part("close").addEventListener("click", () => dialog.close());
    this.#part("newer").addEventListener("click", () => this.#step("newer"));
    this.#part("older").addEventListener("click", () => this.#step("older"));
    this.#part("boxes-button").addEventListener("click", () => this.#toggleBoxes());
    this.#part("copy").addEventListener("click", () => this.#copy());
    this.#part("copy").hidden = !navigator.clipboard; // available over HTTPS or on localhost only
    dialog.addEventListener("close", () => {
      this.#part("clip").pause();
      if (this.#visit !== null) onClose();
      this.#visit = null;
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target === this.#part("clip")) return;
      if (event.key === "ArrowLeft") this.#step("newer");
      else if (event.key === "ArrowRight") this.#step("older");
      else if (event.key === "b") this.#toggleBoxes();
    });
  }

  /** ID of the visit that is shown, if it may still change; else null. */
  get changing() {
    return this.#visit?.complete === false ? this.#visit.visit_id : null;
  }

  show(visit) {
    this.#visit = visit;
    const base = `api/visits/${visit.visit_id}`;
    const name = `${visit.camera}-${new Date(visit.started_unix_ms).toISOString().slice(0, 19).replaceAll(":", "-")}`;
    setText(this.#part("title"), `${classText(visit.class)} at ${visit.camera}`);
    const end = visit.open ? "now" : clockTime(visit.ended_unix_ms);
    const score = visit.score ? ` · best score ${Math.round(visit.score * 100)} %` : "";
    setText(
      this.#part("facts"),
      `${clockTime(visit.started_unix_ms)} – ${end} · ${duration(visit.ended_unix_ms - visit.started_unix_ms)}${score}`,
    );
    this.#showPicture(visit, base, name);
    this.#showClip(visit, base, name);
    for (const way of ["newer", "older"]) this.#part(way).disabled = visit[way] === null;
    this.#part("link").href = `${location.pathname}#${visit.visit_id}`;
    this.#part("link").hidden = false;
    setText(this.#part("copy"), "Copy link");
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  missing(text) {
    this.#visit = {};
    setText(this.#part("title"), "Visit not found");
    setText(this.#part("facts"), text);
    for (const part of ["picture-view", "clip-view", "clip-later", "link"]) this.#part(part).hidden = true;
    for (const way of ["newer", "older"]) this.#part(way).disabled = true;
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  hide() {
    this.#visit = null;
    if (this.#dialog.open) this.#dialog.close();
  }

  #showPicture(visit, base, name) {
    const { picture } = visit;
    this.#part("picture-view").hidden = picture === null;
    if (picture === null) return;
    const image = this.#part("picture");
    image.src = `${base}/picture.jpg?v=${Math.round(picture.unix_ms)}`;
    image.width = picture.width;
    image.height = picture.height;
    image.alt = `${classText(visit.class)} at ${visit.camera}`;
    setText(this.#part("picture-time"), clockTime(picture.unix_ms));
    const link = this.#part("picture-link");
    link.href = `${base}/picture.jpg`;
    link.download = `${name}.jpg`;
    this.#drawBoxes(picture);
  }

  #showClip(visit, base, name) {
    const { clip } = visit;
    this.#part("clip-view").hidden = clip === null;
    this.#part("clip-later").hidden = clip !== null || visit.complete;
    const video = this.#part("clip");
    const source = clip === null ? "" : `${base}/clip.mp4`;
    if (video.getAttribute("src") !== source) {
      video.pause();
      if (source) video.src = source;
      else video.removeAttribute("src");
    }
    if (clip === null) return;
    const kind = clip.encoded ? "encoded by the recorder" : "the camera's own video";
    setText(this.#part("clip-time"), `${clockTime(clip.started_unix_ms)}, ${duration(clip.ended_unix_ms - clip.started_unix_ms)}, ${kind}`);
    const link = this.#part("clip-link");
    link.href = source;
    link.download = `${name}.mp4`;
  }

  #drawBoxes(picture) {
    const drawing = this.#part("boxes");
    drawing.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
    drawing.replaceChildren();
    drawing.toggleAttribute("hidden", !this.#showsBoxes);
    const size = Math.max(12, picture.width / 40);
    for (const box of picture.boxes) {
      const [x1, y1, x2, y2] = box.xyxy;
      const rectangle = document.createElementNS(SVG, "rect");
      const values = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
      for (const [key, value] of Object.entries(values)) rectangle.setAttribute(key, value);
      const label = document.createElementNS(SVG, "text");
      label.setAttribute("x", x1 + size / 4);
      label.setAttribute("y", Math.max(size, y1 - size / 3));
      label.setAttribute("font-size", size);
      label.textContent = `${classText(box.class)} ${Math.round(box.score * 100)} %`;
      drawing.append(rectangle, label);
    }
  }

  #toggleBoxes() {
    this.#showsBoxes = !this.#showsBoxes;
    this.#part("boxes-button").setAttribute("aria-pressed", String(this.#showsBoxes));
    this.#part("boxes").toggleAttribute("hidden", !this.#showsBoxes);
  }

  #step(way) {
    const id = this.#visit?.[way];
    if (id) this.#onStep(id);
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.#part("link").href);
      setText(this.#part("copy"), "Copied");
    } catch {
      setText(this.#part("copy"), "Not permitted: use the link");
    }
  }

  #part(name) {
    return name === "title" ? this.#dialog.querySelector("h2") : this.#dialog.querySelector(`[data-part="${name}"]`);
  }
}
