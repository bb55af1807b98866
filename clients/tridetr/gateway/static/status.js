// The list of all cameras with their state and fault, for the Status tab on phones.

import { element, setText } from "./dom.js";

export class StatusList {
  #list;
  #rows = new Map();

  constructor(list) {
    this.#list = list;
  }

  /** `cards` as in summary.js, with `stateText` and `troubleText`. */
  show(cards) {
    const names = new Set(cards.map((card) => card.camera));
    for (const [name, row] of this.#rows) {
      if (!names.has(name)) {
        row.remove();
        this.#rows.delete(name);
      }
    }
    for (const card of cards) {
      let row = this.#rows.get(card.camera);
      if (!row) {
        row = element("li", {}, element("strong", { text: card.camera }), element("span"), element("p", { className: "quiet" }));
        this.#rows.set(card.camera, row);
        this.#list.append(row);
      }
      setText(row.children[1], card.stateText);
      setText(row.children[2], card.troubleText);
    }
  }
}
