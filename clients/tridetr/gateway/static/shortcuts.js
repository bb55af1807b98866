// Keyboard shortcuts, which can be turned off because single letters interfere with speech input and screen readers.

import { store, stored } from "./dom.js";

const KEY = "tridetr.shortcuts";

export class Shortcuts {
  #isOn = stored(KEY) !== "off";
  #button;

  /** `keys` maps keys to functions; `button` turns the shortcuts on and off. */
  constructor(keys, button) {
    this.#button = button;
    this.#show();
    button.addEventListener("click", () => this.#toggle());
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.fullscreenElement) return;
      // Escape always works.
      if (this.#isOn || event.key === "Escape") keys[event.key]?.();
    });
  }

  #toggle() {
    this.#isOn = !this.#isOn;
    store(KEY, this.#isOn ? "on" : "off");
    this.#show();
  }

  #show() {
    this.#button.setAttribute("aria-pressed", String(this.#isOn));
  }
}
