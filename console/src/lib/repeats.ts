/** Decides when a call that couldn't reach the API is made again. */

import type { Answers } from "../state/connection";

/** Most repeats without a success: the call itself may be what the API doesn't survive. */
const MOST = 5;

/** Failures of one call.
 *
 * It is repeated after each outage of the API. If the API answers, and only this call fails, it is repeated once: the
 * API may have been restarted, but a call that is too slow for a proxy fails each time.
 */
export class Repeats {
  private failed: Answers | null = null;
  private made = 0;

  fails(now: Answers): void {
    this.failed = now;
  }

  succeeds(): void {
    this.failed = null;
    this.made = 0;
  }

  /** Return whether the call is to be made again; the answer is `true` once. */
  isDue(now: Answers): boolean {
    if (!this.failed || now.found === this.failed.found || this.made >= MOST) return false;
    if (this.made > 0 && now.outages === this.failed.outages) return false;
    this.failed = null;
    this.made++;
    return true;
  }
}
