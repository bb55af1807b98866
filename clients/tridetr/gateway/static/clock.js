// How far the gateway's clock is ahead of ours, from pings over the socket that carries the pictures.

const SAMPLES = 12;

/** Milliseconds of Unix time by our own clock, which does not jump while the page is open. */
export function now() {
  return performance.timeOrigin + performance.now();
}

export class ClockOffset {
  #samples = [];

  /** Adds an answered ping: ours when sent, the gateway's, ours when received. */
  add(sent, server, received) {
    const roundTrip = received - sent;
    if (!Number.isFinite(server) || roundTrip < 0) return;
    this.#samples.push({ roundTrip, offset: server - (sent + received) / 2 });
    if (this.#samples.length > SAMPLES) this.#samples.shift();
  }

  /** The offset of the fastest recent answer, whose error is at most half its round trip; null: none yet. */
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
