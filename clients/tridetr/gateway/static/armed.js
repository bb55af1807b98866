// Arming switches for notifications: one for the node, and one per camera.

import { setText } from "./dom.js";

const FAILURE_MS = 4000; // how long a button shows that nothing was changed

export class Armed {
  #buttons = new Map(); // by camera; "" is the node
  #pending = new Set(); // cameras with a request in progress

  /** `announce(text)` is read out by screen readers. */
  constructor(announce) {
    this.announce = announce;
  }

  /** Uses a button as the switch of a camera; `""` is the node. */
  add(camera, button) {
    this.#buttons.set(camera, button);
    // The label is the same in both states: aria-pressed holds the state.
    button.setAttribute("aria-label", camera ? `Armed: ${camera}` : "Armed");
    button.addEventListener("click", () => this.#toggle(camera, button));
  }

  /** Shows the states of a `node` message; hides switches that it does not contain. */
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
    if (this.#pending.has(camera)) return; // not `disabled`, which would remove the focus
    this.#pending.add(camera);
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
      this.announce(`${camera || "The node"} was not ${wanted ? "armed" : "disarmed"}: ${error.message}`);
      setText(button, "Not changed");
      setTimeout(() => this.#paint(button, button.getAttribute("aria-pressed") === "true"), FAILURE_MS);
    } finally {
      this.#pending.delete(camera);
    }
  }
}
