/** Return the files of a sink with their slices; without slices if the API lacks the operation. */

import { fromStatistics, type Limits, type PipelineFile, type Retry, type Slice, type SliceState, type Trigger } from "../lib/pipeline";
import { bytes, count, shortSpan } from "../lib/format";
import { now } from "../state/session";
import { get, isMissing, sinkPath } from "./client";
import type { FileInfo, FileState } from "./types";

const IMPORTS = 12;

interface Condition {
  name: string;
  value: number;
  limit: number;
  progress: number;
}

interface Retried {
  retryAttempt?: number;
  retryReason?: string;
  retryAfter?: string;
}

interface Statistics {
  recordsCount: number;
  compressedSize: number;
}

interface ApiSlice extends Retried {
  sliceId: string;
  state: SliceState;
  openedAt: string;
  statistics?: Statistics;
  conditions?: Condition[];
}

interface ApiFile extends Retried {
  fileId: string;
  state?: FileState;
  openedAt: string;
  closingAt?: string;
  importingAt?: string;
  importedAt?: string;
  statistics?: Statistics;
  conditions?: Condition[];
  quarantine?: { recordsCount: number };
  slices?: ApiSlice[];
}

export interface FilesAnswer {
  freshness?: { oldestPendingAt?: string; pendingRecords: number };
  files: ApiFile[];
  imports: ApiFile[];
}

const TEXTS: Record<string, (limit: number) => string> = {
  recordCount: (limit) => `at ${count(limit)} records`,
  size: (limit) => `at ${bytes(limit)}`,
  time: (limit) => `${shortSpan(limit * 1000)} after it was opened`,
  sliceCount: (limit) => `at ${count(limit)} slices`,
  expiration: () => "before its credentials expire",
};

/** Return the nearest condition, which is the first. */
export function triggerOf(conditions: Condition[] | undefined, what: string): Trigger | null {
  const found = conditions?.[0];
  if (!found) return null;
  const text = TEXTS[found.name]?.(found.limit) ?? found.name;
  return { kind: found.name, progress: Math.min(1, Math.max(0, found.progress)), text: `${what} ${text}` };
}

function retryOf(from: Retried): Retry | null {
  return from.retryAttempt ? { attempt: from.retryAttempt, reason: from.retryReason ?? "", after: from.retryAfter ?? null } : null;
}

function sliceOf(slice: ApiSlice): Slice {
  return {
    sliceId: slice.sliceId,
    state: slice.state,
    records: slice.statistics?.recordsCount ?? 0,
    bytes: slice.statistics?.compressedSize ?? 0,
    retry: retryOf(slice),
    trigger: triggerOf(slice.conditions, "uploaded"),
  };
}

function fileOf(file: ApiFile): PipelineFile {
  return {
    fileId: file.fileId,
    state: file.state ?? "imported",
    openedAt: file.openedAt,
    closingAt: file.closingAt ?? null,
    importingAt: file.importingAt ?? null,
    importedAt: file.importedAt ?? null,
    records: file.statistics?.recordsCount ?? 0,
    bytes: file.statistics?.compressedSize ?? 0,
    retry: retryOf(file),
    trigger: triggerOf(file.conditions, "imported"),
    slices: (file.slices ?? []).map(sliceOf),
    quarantined: file.quarantine?.recordsCount ?? 0,
  };
}

export const filesOf = (answer: FilesAnswer): PipelineFile[] => [...answer.files, ...answer.imports].map(fileOf);

let hasFiles = true;

export async function readPipeline(sourceId: string, sinkId: string, limits: Limits, signal: AbortSignal): Promise<PipelineFile[]> {
  if (hasFiles) {
    try {
      return filesOf(await get<FilesAnswer>(`${sinkPath(sourceId, sinkId, "files")}?imports=${IMPORTS}`, signal));
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
  }
  const answer = await get<{ files: FileInfo[] }>(sinkPath(sourceId, sinkId, "statistics", "files"), signal);
  // The sink exists, so the operation was missing.
  hasFiles = false;
  return fromStatistics(answer.files, limits, now());
}
