/** Rates over time, in bounded memory. */

/** Differences of a counter per second, for the last *length* seconds. */
export class RateSeries {
  /** Allocated at the first rate above zero: most series of rejected records have none. */
  private values: Float32Array | null = null;
  private head = -1;
  private last: { second: number; counter: number } | null = null;
  private filled = 0;

  constructor(readonly length: number) {}

  /** Add the value of the *counter* at *time*, in milliseconds. A lower value is a reset. */
  push(time: number, counter: number): void {
    const second = Math.floor(time / 1000);
    if (this.last === null) {
      this.last = { second, counter };
      return;
    }
    const passed = second - this.last.second;
    if (passed <= 0) return;
    const rate = Math.max(0, counter - this.last.counter) / passed;
    if (rate > 0) this.values ??= new Float32Array(this.length);
    for (let step = 0; this.values && step < Math.min(passed, this.length); step++) {
      this.head = (this.head + 1) % this.length;
      this.values[this.head] = rate;
    }
    this.filled = Math.min(this.length, this.filled + passed);
    this.last = { second, counter };
  }

  /** Return the newest *count* rates, oldest first; zero for unknown ones. */
  newest(count: number): number[] {
    const found = new Array<number>(count).fill(0);
    if (!this.values) return found;
    const known = Math.min(count, this.filled);
    for (let back = 0; back < known; back++) {
      const place = (this.head - back + this.length) % this.length;
      found[count - 1 - back] = this.values[place]!;
    }
    return found;
  }

  /** Return the number of seconds with known rates. */
  get known(): number {
    return this.filled;
  }

  /** Return the mean rate of the newest *seconds*. */
  rate(seconds = 5): number {
    const known = Math.min(seconds, this.filled);
    if (!known) return 0;
    return this.newest(known).reduce((sum, each) => sum + each, 0) / known;
  }
}

/** Return the sums of several lists of the same length. */
export function summed(lists: number[][], length: number): number[] {
  const total = new Array<number>(length).fill(0);
  for (const list of lists) for (let place = 0; place < length; place++) total[place]! += list[place] ?? 0;
  return total;
}
