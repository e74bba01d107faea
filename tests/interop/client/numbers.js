// The device's counter n of durable writes, and `low`: all below it is settled. docs/protocol.md, "Sending".

export class SendNumbers {
  #last = 0;
  #open = new Set();

  /** Of hello. A store on disk would give more than 0 here after a restart. */
  low = () => Math.min(this.#last + 1, ...this.#open);

  take() {
    this.#open.add((this.#last += 1));
    return this.#last;
  }

  settle = (n) => this.#open.delete(n);

  /** Run work({n, low}) with the next number; it is settled when the work has an outcome. */
  async use(work) {
    const n = this.take();
    try {
      return await work({ n, low: this.low() });
    } finally {
      this.settle(n);
    }
  }
}
