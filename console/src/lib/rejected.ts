/** Texts about rejected records. */

import type { AnsweringNode } from "../api/types";
import { count } from "./format";

/** The outputs of a replay. */
export interface Replayed {
  replayed?: number;
  stored?: number;
  rejected?: number;
  hasMore?: boolean;
  nodes?: AnsweringNode[];
}

/** Return a sentence about the records of the nodes that can't read them or don't answer; empty if there are none.
 *
 * :param what: what is true of their records.
 */
export function missingText(nodes: AnsweringNode[] | undefined, what: string): string {
  const missing = (nodes ?? []).filter((node) => !node.available);
  if (!missing.length) return "";
  const reasons = new Set(missing.map((node) => node.message ?? "the node can't be reached"));
  return `The records of ${missing.map((node) => node.nodeId).join(", ")} ${what} (${[...reasons].join("; ")})`;
}

/** Return a sentence about all records that were ever rejected, of which some are no longer kept. */
export const everText = (rejected: number): string => `${count(rejected)} ${rejected === 1 ? "record has" : "records have"} been rejected in all, including those that were replayed, deleted or dropped.`;

/** Return the outcome of a replay for the user; `null` if the outputs don't tell it. */
export function replayText({ replayed, stored = 0, rejected = 0, hasMore, nodes }: Replayed): string | null {
  if (replayed === undefined) return null;
  const missing = missingText(nodes, "are missing");
  const sentences = [
    `${count(stored)} of ${count(replayed)} became rows, ${count(rejected)} rejected again.`,
    hasMore && "More records are waiting: replay again.",
    missing && `${missing}: replay again later.`,
  ];
  return sentences.filter(Boolean).join(" ");
}
