// Keyboard shortcuts, which can be turned off: single letters get in the way of speech input and screen readers.

const KEY = "tridetr.shortcuts";

export class Shortcuts {
  #isOn = true;
  #button;

  /** `keys` maps a key to what it does; `button` turns them off and on. */
  constructor(keys, button) {
    this.#button = button;
    try {
      this.#isOn = localStorage.getItem(KEY) !== "off";
    } catch {
      // Storage is forbidden: the choice holds as long as the page.
    }
    this.#show();
    button.addEventListener("click", () => this.#toggle());
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.fullscreenElement) return;
      // Escape is not a shortcut but the way out.
      if (this.#isOn || event.key === "Escape") keys[event.key]?.();
    });
  }

  #toggle() {
    this.#isOn = !this.#isOn;
    try {
      localStorage.setItem(KEY, this.#isOn ? "on" : "off");
    } catch {
      // As above.
    }
    this.#show();
  }

  #show() {
    this.#button.setAttribute("aria-pressed", String(this.#isOn));
  }
}
