/** Changes requested by this page: the API answers with a task, which is followed here.
 *
 * The list of all tasks comes from the API; this module has the labels of the page's own tasks.
 */

import { signal } from "@preact/signals";
import { call, get } from "../api/client";
import type { Task } from "../api/types";

const KEY = "stream.tasks";
const KEPT = 50;
const MAX_PAUSE_MS = 1_000;
const MAX_WAIT_MS = 120_000;

export interface KnownTask {
  label: string;
  task: Task;
}

function stored(): KnownTask[] {
  try {
    return (JSON.parse(sessionStorage.getItem(KEY) ?? "[]") as KnownTask[]).slice(0, KEPT);
  } catch {
    return [];
  }
}

export const tasks = signal<KnownTask[]>(stored());

function remember(label: string, task: Task): void {
  const others = tasks.peek().filter((each) => each.task.taskId !== task.taskId);
  tasks.value = [{ label, task }, ...others].slice(0, KEPT);
  try {
    sessionStorage.setItem(KEY, JSON.stringify(tasks.value));
  } catch {
    // The list is a convenience: without storage space it is lost with the page.
  }
}

const taskPath = (taskId: string) => `/v1/tasks/${taskId.split("/").map(encodeURIComponent).join("/")}`;

/** Wait for the end of a task. Throws its error. */
async function follow(label: string, first: Task): Promise<Task> {
  let task = first;
  let pause = 100;
  const deadline = performance.now() + MAX_WAIT_MS;
  while (!task.isFinished) {
    if (performance.now() > deadline) throw new Error("The task is still running. The page “Tasks” shows its progress.");
    const asked = performance.now();
    task = await get<Task>(`${taskPath(task.taskId)}?wait=10s`);
    remember(label, task);
    // An API that has no time for further waits answers at once.
    if (task.isFinished || performance.now() - asked >= MAX_PAUSE_MS) continue;
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 1.5, MAX_PAUSE_MS);
  }
  if (task.status === "error") throw new Error(task.error ?? "The task has failed.");
  return task;
}

/** Request a change and wait for its end.
 *
 * :param label: description of the change for the user.
 */
export async function change(label: string, method: string, path: string, body?: unknown): Promise<Task> {
  const task = await call<Task>(method, path, { body });
  remember(label, task);
  return follow(label, task);
}
