// Estimates how far the gateway's clock is ahead of the browser's, from pings over the WebSocket.

const SAMPLES = 12;
const JUMP_MS = 1000;

/** The browser's Unix time in milliseconds, from a clock that does not jump while the page is open. */
export function now() {
  return performance.timeOrigin + performance.now();
}

/** How far the browser's adjustable clock is from `now()`: changes if it is set, or after the computer has slept. */
function wallOffset() {
  return Date.now() - now();
}

export class ClockOffset {
  #samples = [];
  #wall = wallOffset();
  #resetAt = now();

  /** Adds an answered ping: the browser's time when sent, the gateway's time, the browser's time when received. */
  add(sent, server, received) {
    const roundTrip = received - sent;
    if (!Number.isFinite(server) || roundTrip < 0) return;
    // Samples that contradict each other: one of the clocks has been set.
    const [least, most] = [server - received, server - sent];
    if (this.#samples.some((sample) => least > sample.most + JUMP_MS || most < sample.least - JUMP_MS)) this.reset();
    this.#samples.push({ roundTrip, offset: (least + most) / 2, least, most, sent });
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

  /**
   * At most how old something from the gateway is (ms), by the time at which the gateway stamped it; null if unknown.
   * If only the way from the gateway is slow, `offset` is wrong by half of the delay, but this is not.
   */
  age(unixMs) {
    return this.#samples.length ? now() + Math.min(...this.#samples.map(({ most }) => most)) - unixMs : null;
  }

  /** Whether a ping has been answered. */
  get isKnown() {
    return this.#samples.length > 0;
  }

  /** At most how old the newest facts from the gateway are (ms): the time since the newest answered ping, or the reset. */
  get silence() {
    return now() - (this.#samples.at(-1)?.sent ?? this.#resetAt);
  }

  /** Forgets all pings if the computer has slept, during which `now()` may stand still; returns whether it did. */
  forgetSleep() {
    const hasJumped = Math.abs(wallOffset() - this.#wall) > JUMP_MS;
    if (hasJumped) this.reset();
    return hasJumped;
  }

  reset() {
    this.#samples = [];
    this.#wall = wallOffset();
    this.#resetAt = now();
  }

  #best() {
    return this.#samples.reduce((best, sample) => (best && best.roundTrip <= sample.roundTrip ? best : sample), null);
  }
}
