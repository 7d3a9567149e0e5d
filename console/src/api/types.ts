/** Answers of the API, with the members that the console shows. */

export interface By {
  type: "user" | "system";
  tokenDesc?: string;
  userName?: string;
}

export interface Version {
  number: number;
  hash: string;
  description: string;
  at: string;
  by: By;
}

export interface Entity {
  name: string;
  description: string;
  version: Version;
  created: { at: string; by: By };
  deleted?: { at: string; by: By };
  disabled?: { at: string; by: By; reason: string };
}

export interface Source extends Entity {
  projectId: number;
  branchId: number;
  sourceId: string;
  type: "http" | "otlp";
  http?: { url: string };
  otlp?: { url: string; baseUrl: string; secret: string };
}

export const COLUMN_TYPES = ["path", "body", "headers", "datetime", "ip", "uuid", "template"] as const;
export type ColumnType = (typeof COLUMN_TYPES)[number];

export interface Column {
  type: ColumnType;
  name: string;
  primaryKey?: boolean;
  dataType?: string;
  nullable?: boolean;
  path?: string;
  defaultValue?: string;
  rawString?: boolean;
  template?: { language: string; content: string };
}

export interface Table {
  type: string;
  tableId?: string;
  connection?: string;
  schema?: string;
  namespace?: string;
  table?: string;
  path?: string;
  mapping: { columns: Column[] };
}

export interface Sink extends Entity {
  sourceId: string;
  sinkId: string;
  type: "table";
  allowedSignals?: string[];
  table: Table;
}

export interface Level {
  firstRecordAt?: string;
  lastRecordAt?: string;
  recordsCount: number;
  compressedSize: number;
  uncompressedSize: number;
}

export interface Levels {
  local?: Level;
  staging?: Level;
  target?: Level;
}

export type FileState = "writing" | "closing" | "importing" | "imported";

export interface FileInfo {
  state: FileState;
  openedAt: string;
  closingAt?: string;
  importingAt?: string;
  importedAt?: string;
  retryAttempt?: number;
  retryReason?: string;
  retryAfter?: string;
  statistics?: { total: Level | null; levels: Levels };
  quarantine?: { recordsCount: number; reason: string; isFinished: boolean; fileId?: number };
}

export interface LastError {
  reason: string;
  column?: string;
  message: string;
  time: string;
}

export interface SinkStatistics {
  total: Level;
  levels: Levels;
  files: FileInfo[];
  rejected?: { count: number; lastError?: LastError | null };
}

export interface AggregatedSink extends Sink {
  statistics?: SinkStatistics;
}

export interface AggregatedSource extends Source {
  sinks: AggregatedSink[];
}

export interface Page {
  limit: number;
  totalCount: number;
  afterId: string;
  lastId: string;
}

export interface Task {
  taskId: string;
  type: string;
  url: string;
  status: "processing" | "success" | "error";
  isFinished: boolean;
  createdAt: string;
  finishedAt?: string;
  duration?: number;
  result?: string;
  error?: string;
  outputs?: Record<string, unknown>;
}

export interface Setting {
  key: string;
  type: "string" | "int" | "float" | "bool" | "[]string";
  description: string;
  value: unknown;
  defaultValue: unknown;
  overwritten: boolean;
  protected: boolean;
  validation?: string;
}

export interface TestedRow {
  accepted: boolean;
  columns: { name: string; value?: string; error?: string }[];
}

export interface TailRecord {
  timestamp: string;
  ip: string;
  signal?: string;
  headers: Record<string, string>;
  body: string;
  isBase64: boolean;
  bodyBytes: number;
  isCut: boolean;
}

export interface RejectedRecord {
  id: string;
  nodeId: string;
  time: string;
  reason: string;
  column?: string;
  message: string;
  excerpt: string;
  contentType: string;
  size: number;
}

export interface RejectedReason {
  reason: string;
  column?: string;
  count: number;
  lastTime: string;
  message: string;
}

export interface AnsweringNode {
  nodeId: string;
  available: boolean;
  message?: string;
}

export interface RejectedList {
  records: RejectedRecord[];
  reasons: RejectedReason[];
  total: number;
  dropped: number;
  nodes: AnsweringNode[];
}

export interface RejectedDetail extends RejectedRecord {
  headers: Record<string, string>;
  body: string;
  bodyEncoding?: string;
  ip?: string;
}

export interface RejectedDeleted {
  deleted: number;
  /** Nodes that may keep others, but can't be reached. */
  nodes?: AnsweringNode[];
}

export interface ReplayTest {
  tested: number;
  accepted: number;
  rejected: number;
  results: { id: string; accepted: boolean; reason?: string; column?: string; message?: string; row?: unknown }[];
  /** Nodes that may keep others, but can't be reached. */
  nodes?: AnsweringNode[];
}

export interface LiveCounters {
  time: string;
  full?: boolean;
  behindSeconds?: number;
  sources: {
    sourceId: string;
    sinks: {
      sinkId: string;
      records: number;
      bytes: number;
      rejected?: number | null;
      lastRecordTime?: string | null;
      oldestPendingTime?: string | null;
      lastError?: LastError | null;
    }[];
  }[];
}
