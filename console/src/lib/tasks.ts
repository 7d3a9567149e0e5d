/** Texts about tasks. */

import type { Task } from "../api/types";

export interface TaskObject {
  sourceId: string;
  sinkId: string;
}

/** Return the object of a task. The id consists of type, branch, source, the sink if any, and time. */
export function objectOf(task: Task): TaskObject {
  const parts = task.taskId.split("/").slice(2, -1);
  return { sourceId: parts[0] ?? "", sinkId: parts[1] ?? "" };
}

/** Return the title of a task: "api.update.sinkSettings" of "shop/orders" is "Update sink settings of shop/orders". */
export function labelOf(task: Task): string {
  const [verb = "", thing = ""] = task.type.replace(/^api\./, "").split(".");
  const words = thing.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  const { sourceId, sinkId } = objectOf(task);
  const what = `${verb.charAt(0).toUpperCase()}${verb.slice(1)} ${words}`.trim();
  const name = sinkId ? `${sourceId}/${sinkId}` : sourceId;
  return words === "source" || words === "sink" ? `${what} ${name}`.trim() : name ? `${what} of ${name}` : what;
}
