/** A live tail of a source, in bounded memory. */

import { batch, signal, type Signal } from "@preact/signals";
import { ApiError, errorText, request, sourcePath } from "../api/client";
import { readEvents } from "../api/sse";
import type { TailRecord } from "../api/types";

export const KEPT = 200;
const RATE = 10;
const SECONDS = 3600;
const DRAWN_EVERY_MS = 250;
const MAX_PAUSE_MS = 10_000;

export interface Shown extends TailRecord {
  serial: number;
}

export class Tail {
  readonly records: Signal<Shown[]> = signal([]);
  readonly state: Signal<"connecting" | "live" | "ended" | "lost"> = signal("connecting");
  readonly problem: Signal<string> = signal("");
  readonly left: Signal<number> = signal(0);
  readonly isPaused = signal(false);
  private isHeld = false;
  private waiting: Shown[] = [];
  private dropped = 0;
  private serial = 0;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private readonly abort = new AbortController();

  constructor(private readonly sourceId: string) {
    void this.follow();
  }

  stop(): void {
    this.abort.abort();
    if (this.timer) clearTimeout(this.timer);
  }

  clear(): void {
    this.waiting = [];
    this.records.value = [];
    this.left.value = 0;
  }

  /** Pause while a record is read, so that it doesn't move away while others arrive. */
  hold(): void {
    if (this.isPaused.peek()) return;
    this.pause(true);
    this.isHeld = true;
  }

  /** Go on after `hold`, unless the user has paused the tail. */
  release(): void {
    if (this.isHeld) this.pause(false);
  }

  pause(isPaused: boolean): void {
    this.isHeld = false;
    this.isPaused.value = isPaused;
    if (!isPaused) this.draw();
  }

  private async follow(): Promise<void> {
    let pause = 500;
    const { signal } = this.abort;
    while (!signal.aborted) {
      try {
        this.state.value = "connecting";
        const path = `${sourcePath(this.sourceId, "tail")}?rate=${RATE}&duration=${SECONDS}`;
        const answer = await request("GET", path, { signal });
        this.state.value = "live";
        this.problem.value = "";
        pause = 500;
        await readEvents(answer, ({ event, data }) => {
          if (event === "record") this.take(JSON.parse(data) as TailRecord);
          else if (event === "dropped") {
            const { overRate, overflow } = JSON.parse(data) as { overRate: number; overflow: number };
            this.dropped += overRate + overflow;
            this.later();
          }
        });
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ApiError && error.status < 500) {
          batch(() => {
            this.state.value = "ended";
            this.problem.value = errorText(error);
          });
          return;
        }
        this.state.value = "lost";
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, MAX_PAUSE_MS);
    }
  }

  private take(record: TailRecord): void {
    this.waiting.push({ ...record, serial: ++this.serial });
    if (this.waiting.length > KEPT) this.waiting.splice(0, this.waiting.length - KEPT);
    this.later();
  }

  private later(): void {
    if (this.timer || this.isPaused.peek()) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.draw();
    }, DRAWN_EVERY_MS);
  }

  private draw(): void {
    if (this.isPaused.peek()) return;
    batch(() => {
      if (this.waiting.length) {
        this.records.value = [...this.waiting.reverse(), ...this.records.peek()].slice(0, KEPT);
        this.waiting = [];
      }
      if (this.dropped) {
        this.left.value += this.dropped;
        this.dropped = 0;
      }
    });
  }
}
