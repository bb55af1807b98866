// Measures rates and values, such as latencies, over the last seconds.

const SPAN_MS = 3000;

export class Meter {
  #items = [];

  add(time, value = 0) {
    this.#items.push({ time, value });
    this.#forget(time);
  }

  /** Events per second; 0 without recent events. */
  rate(time) {
    this.#forget(time);
    if (this.#items.length < 2) return 0;
    const first = this.#items[0].time;
    const last = this.#items.at(-1).time;
    // Once the stream stops, the time since its last event counts too.
    const gap = (last - first) / (this.#items.length - 1);
    const span = Math.max(last - first, time - first - gap);
    return span > 0 ? ((this.#items.length - 1) * 1000) / span : 0;
  }

  /** The median of the recent values; null if there are none. */
  median(time) {
    this.#forget(time);
    if (this.#items.length === 0) return null;
    const values = this.#items.map((item) => item.value).sort((a, b) => a - b);
    return values[Math.floor(values.length / 2)];
  }

  /** The maximum of the recent values; null if there are none. */
  most(time) {
    this.#forget(time);
    return this.#items.length ? Math.max(...this.#items.map((item) => item.value)) : null;
  }

  #forget(time) {
    while (this.#items.length && this.#items[0].time < time - SPAN_MS) this.#items.shift();
  }
}
