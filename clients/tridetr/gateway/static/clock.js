// Estimates how far the gateway's clock is ahead of the browser's, from pings over the WebSocket.

const SAMPLES = 12;

/** The browser's Unix time in milliseconds, from a clock that does not jump while the page is open. */
export function now() {
  return performance.timeOrigin + performance.now();
}

export class ClockOffset {
  #samples = [];

  /** Adds an answered ping: the browser's time when sent, the gateway's time, the browser's time when received. */
  add(sent, server, received) {
    const roundTrip = received - sent;
    if (!Number.isFinite(server) || roundTrip < 0) return;
    this.#samples.push({ roundTrip, offset: server - (sent + received) / 2 });
    if (this.#samples.length > SAMPLES) this.#samples.shift();
  }

  /** The offset from the fastest recent ping, accurate to half its round-trip time; null without a ping. */
  get offset() {
    return this.#best()?.offset ?? null;
  }

  get error() {
    const best = this.#best();
    return best ? best.roundTrip / 2 : null;
  }

  reset() {
    this.#samples = [];
  }

  #best() {
    return this.#samples.reduce((best, sample) => (best && best.roundTrip <= sample.roundTrip ? best : sample), null);
  }
}
