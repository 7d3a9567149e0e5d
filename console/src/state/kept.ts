/** How many rejected records of each sink are kept, as far as the API was asked. */

import { signal } from "@preact/signals";
import { session } from "./session";

/** By the path of the list of the records. */
const kept = signal<Record<string, number>>({});
session.subscribe(() => {
  kept.value = {};
});

export const keptOf = (path: string): number | undefined => kept.value[path];

export function learnKept(path: string, total: number): void {
  if (kept.peek()[path] !== total) kept.value = { ...kept.peek(), [path]: total };
}
