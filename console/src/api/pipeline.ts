/** Files of a sink with their slices; without the operation for that, as statistics show them. */

import type { FileInfo } from "./types";
import { fromStatistics, type limitsOf, type PipelineFile } from "../lib/pipeline";
import { now } from "../state/session";
import { get, sinkPath } from "./client";

export async function readPipeline(
  sourceId: string,
  sinkId: string,
  limits: ReturnType<typeof limitsOf>,
  signal: AbortSignal,
): Promise<PipelineFile[]> {
  const answer = await get<{ files: FileInfo[] }>(sinkPath(sourceId, sinkId, "statistics", "files"), signal);
  return fromStatistics(answer.files, limits, now());
}
