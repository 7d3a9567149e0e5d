/** Whether the API answers.
 *
 * One failed call doesn't tell: it may be slow, so that a proxy gave it up. The health check of the API decides.
 */

import { batch, signal } from "@preact/signals";

const PAUSE_MS = 1_000;
/** How long the health check may take. */
const MOST_MS = 5_000;

export interface Answers {
  /** How often the API was found to answer after a call that couldn't reach it. */
  found: number;
  /** How often it didn't answer before: the outages that have ended. */
  outages: number;
}

export const connection = signal<"ok" | "lost">("ok");
export const answers = signal<Answers>({ found: 0, outages: 0 });

/** The doubt that is being resolved. */
let doubted: symbol | null = null;

async function isAnswering(): Promise<boolean> {
  try {
    const signal = AbortSignal.timeout(MOST_MS);
    return (await fetch("/health-check", { cache: "no-store", credentials: "omit", signal })).ok;
  } catch {
    return false;
  }
}

function end(): void {
  doubted = null;
  const { found, outages } = answers.peek();
  const wasLost = connection.peek() === "lost";
  batch(() => {
    connection.value = "ok";
    answers.value = { found: found + 1, outages: outages + Number(wasLost) };
  });
}

/** Ask for the health of the API until it answers: a call couldn't reach it. */
export function doubt(): void {
  if (doubted) return;
  const own = Symbol();
  doubted = own;
  const resolve = async () => {
    while (doubted === own) {
      const isFound = await isAnswering();
      if (doubted !== own) return;
      if (isFound) return end();
      connection.value = "lost";
      await new Promise((resume) => setTimeout(resume, PAUSE_MS));
    }
  };
  void resolve();
}

/** Note that the API has answered a call. */
export function answered(): void {
  if (connection.peek() === "lost") end();
}
