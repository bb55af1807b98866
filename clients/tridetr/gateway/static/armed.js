// The switches that decide who is notified: one of the node, and one of each camera.

import { setText } from "./dom.js";

export class Armed {
  #buttons = new Map(); // by camera; "" is the node

  /** Makes a button the switch of a camera; `""` is the node. */
  add(camera, button) {
    this.#buttons.set(camera, button);
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
    const wanted = button.getAttribute("aria-pressed") !== "true";
    button.disabled = true;
    try {
      const response = await fetch(`api/armed${camera && `/${encodeURIComponent(camera)}`}`, {
        method: "PUT",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ armed: wanted }),
      });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.error);
      this.show({ "": answer.armed, ...answer.cameras });
      button.removeAttribute("title");
    } catch (error) {
      button.title = `Not changed: ${error.message}`;
    } finally {
      button.disabled = false;
    }
  }
}
