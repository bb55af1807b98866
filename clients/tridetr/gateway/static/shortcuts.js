// Keyboard shortcuts, which can be turned off because single letters interfere with speech input and screen readers.

const KEY = "tridetr.shortcuts";

export class Shortcuts {
  #isOn = true;
  #button;

  /** `keys` maps keys to functions; `button` turns the shortcuts on and off. */
  constructor(keys, button) {
    this.#button = button;
    try {
      this.#isOn = localStorage.getItem(KEY) !== "off";
    } catch {
      // Storage is blocked: the choice is lost when the page is closed.
    }
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
