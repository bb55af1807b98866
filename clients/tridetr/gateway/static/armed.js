// The switches that decide who is notified: one of the node, and one of each camera.

import { setText } from "./dom.js";

const FAILURE_MS = 4000; // for which a button shows that it changed nothing

export class Armed {
  #buttons = new Map(); // by camera; "" is the node
  #asked = new Set(); // cameras of which the answer is still to come

  /** `announce` takes what screen readers are to read out. */
  constructor(announce) {
    this.announce = announce;
  }

  /** Makes a button the switch of a camera; `""` is the node. */
  add(camera, button) {
    this.#buttons.set(camera, button);
    // The name is the same in both states: the state is in aria-pressed.
    button.setAttribute("aria-label", camera ? `Armed: ${camera}` : "Armed");
    button.addEventListener("click", () => this.#toggle(camera, button));
  }

  /** Shows what a `node` message says; a switch that it does not name is not there. */
  show(states) {
    for (const [camera, button] of this.#buttons) {
      const isOn = states?.[camera];
      button.hidden = isOn === undefined;
      if (isOn !== undefined) this.#paint(button, isOn);
    }
  }

  #paint(button, isOn) {
    button.setAttribute("aria-pressed", String(isOn));
    setText(button, isOn ? "Armed" : "Disarmed");
  }

  async #toggle(camera, button) {
    if (this.#asked.has(camera)) return; // not `disabled`, which would take the focus away
    this.#asked.add(camera);
    const wanted = button.getAttribute("aria-pressed") !== "true";
    try {
      const response = await fetch(`api/armed${camera && `/${encodeURIComponent(camera)}`}`, {
        method: "PUT",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ armed: wanted }),
      });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.error);
      this.show({ "": answer.armed, ...answer.cameras });
    } catch (error) {
      this.announce(`${camera || "The node"} is not ${wanted ? "armed" : "disarmed"}: ${error.message}`);
      setText(button, "Not changed");
      setTimeout(() => this.#paint(button, button.getAttribute("aria-pressed") === "true"), FAILURE_MS);
    } finally {
      this.#asked.delete(camera);
    }
  }
}
