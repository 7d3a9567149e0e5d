/** The pipeline of a sink's rows: converts files and slices of the API's answers to the drawn form. */

import type { FileInfo, FileState, Setting } from "../api/types";
import { bytes as sizeText, count, durationMs, shortSpan, sizeBytes } from "./format";

export type SliceState = "writing" | "closing" | "uploading" | "uploaded" | "imported";

export interface Retry {
  attempt: number;
  reason: string;
  after: string | null;
}

/** Progress towards a limit that closes a file or slice: 0 to 1. */
export interface Trigger {
  kind: string;
  progress: number;
  text: string;
}

export interface Slice {
  sliceId: string;
  state: SliceState;
  records: number;
  bytes: number;
  retry: Retry | null;
  trigger: Trigger | null;
}

export interface PipelineFile {
  fileId: string;
  state: FileState;
  openedAt: string;
  closingAt: string | null;
  importingAt: string | null;
  importedAt: string | null;
  records: number;
  bytes: number;
  retry: Retry | null;
  trigger: Trigger | null;
  slices: Slice[];
  quarantined: number;
}

export const STAGES = [
  { id: "writing", label: "On disk", note: "open, accepts rows" },
  { id: "closing", label: "Uploading", note: "closed, on its way to staging" },
  { id: "importing", label: "Importing", note: "into the table" },
  { id: "imported", label: "In the table", note: "done" },
] as const;

export interface Limits {
  count: number | null;
  size: number | null;
  interval: number | null;
}

const PREFIX = "storage.level.target.import.trigger.";

/** Return the limits that close a file, from the settings of its sink. */
export function limitsOf(settings: Setting[]): Limits {
  const value = (name: string) => settings.find((each) => each.key === PREFIX + name)?.value;
  const number = value("count");
  return { count: typeof number === "number" ? number : null, size: sizeBytes(value("size")), interval: durationMs(value("interval")) };
}

/** Return the nearest limit. */
export function nearest(limits: Limits, records: number, bytes: number, ageMs: number): Trigger | null {
  // A file without records is not imported.
  const found: Trigger[] = [];
  const add = (kind: string, value: number, most: number | null, text: (most: number) => string) => {
    if (most) found.push({ kind, progress: Math.min(1, value / most), text: text(most) });
  };
  add("records", records, limits.count, (most) => `imported at ${count(most)} records`);
  add("bytes", bytes, limits.size, (most) => `imported at ${sizeText(most)}`);
  if (records > 0) add("age", ageMs, limits.interval, (most) => `imported ${shortSpan(most)} after it was opened`);
  return found.reduce<Trigger | null>((best, each) => (best && best.progress >= each.progress ? best : each), null);
}

/** Return the files in the statistics, without their slices. */
export function fromStatistics(files: FileInfo[], limits: Limits, now: number): PipelineFile[] {
  return files.map((file) => {
    const total = file.statistics?.total;
    const records = total?.recordsCount ?? 0;
    const bytes = total?.compressedSize ?? 0;
    return {
      fileId: file.openedAt,
      state: file.state,
      openedAt: file.openedAt,
      closingAt: file.closingAt ?? null,
      importingAt: file.importingAt ?? null,
      importedAt: file.importedAt ?? null,
      records,
      bytes,
      retry: file.retryAttempt ? { attempt: file.retryAttempt, reason: file.retryReason ?? "", after: file.retryAfter ?? null } : null,
      trigger: file.state === "writing" ? nearest(limits, records, bytes, now - Date.parse(file.openedAt)) : null,
      slices: [],
      quarantined: file.quarantine?.recordsCount ?? 0,
    };
  });
}

/** Return the files, newest first; only the newest of the imported ones. */
export function inStage(files: PipelineFile[], stage: FileState, most: number): PipelineFile[] {
  return files
    .filter((file) => file.state === stage)
    .sort((a, b) => b.openedAt.localeCompare(a.openedAt))
    .slice(0, most);
}
