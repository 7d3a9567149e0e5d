/** Sources, sinks and their counters, kept current during a session. */

import { batch, signal } from "@preact/signals";
import { ApiError, get, inBranch, isMissing, request } from "../api/client";
import { readEvents } from "../api/sse";
import type { AggregatedSource, LastError, LiveCounters, Page, SinkStatistics } from "../api/types";
import { RateSeries } from "../lib/series";
import { learnRights, token } from "./rights";
import { answers } from "./connection";
import { now, session } from "./session";

const PAGE = 100;
/** Retention of rates: 15 minutes. */
export const SERIES_SECONDS = 900;
const POLL_MS = 3_000;
const RELOAD_MS = 30_000;
const SILENCE_MS = 15_000;
const MAX_PAUSE_MS = 15_000;

export interface Counter {
  records: number;
  bytes: number;
  rejected: number;
  lastRecord: number | null;
  oldestPending: number | null;
  lastError: LastError | null;
  accepted: RateSeries;
  refused: RateSeries;
}

export interface FileEvent {
  kind: "file" | "slice";
  sourceId: string;
  sinkId: string;
  fileId: string;
  sliceId?: string;
  state: string;
  previousState?: string;
  records: number;
  bytes: number;
  time: string;
}

export type Feed = "connecting" | "live" | "polling" | "lost";

/** `null` until they are loaded. */
export const sources = signal<AggregatedSource[] | null>(null);
export const failure = signal<unknown>(null);
export const feed = signal<Feed>("connecting");
/** Number of updates of the counters; components that show them depend on it. */
export const tick = signal(0);
/** Time of the newest counters, by the clock of the API. */
export const takenAt = signal(0);
/** Number of seconds for which the API itself has received no changes. */
export const behind = signal(0);

const counters = new Map<string, Counter>();
const listeners = new Set<(event: FileEvent) => void>();

const keyOf = (sourceId: string, sinkId: string) => `${sourceId}/${sinkId}`;

export const counterOf = (sourceId: string, sinkId: string): Counter | undefined => counters.get(keyOf(sourceId, sinkId));

export function countersOf(sourceId: string): Counter[] {
  const source = sources.peek()?.find((each) => each.sourceId === sourceId);
  return (source?.sinks ?? []).flatMap((sink) => counterOf(sourceId, sink.sinkId) ?? []);
}

export const allCounters = (): Counter[] => [...counters.values()];

export function onFileEvent(take: (event: FileEvent) => void): () => void {
  listeners.add(take);
  return () => listeners.delete(take);
}

const time = (text: string | null | undefined): number | null => (text ? Date.parse(text) : null);

function counter(key: string): Counter {
  let found = counters.get(key);
  if (!found) {
    found = {
      records: 0,
      bytes: 0,
      rejected: 0,
      lastRecord: null,
      oldestPending: null,
      lastError: null,
      accepted: new RateSeries(SERIES_SECONDS),
      refused: new RateSeries(SERIES_SECONDS),
    };
    counters.set(key, found);
  }
  return found;
}

function oldestPending(statistics: SinkStatistics): number | null {
  const waiting = [statistics.levels.local?.firstRecordAt, statistics.levels.staging?.firstRecordAt];
  const times = waiting.flatMap((each) => time(each) ?? []);
  return times.length ? Math.min(...times) : null;
}

function sample(at: number): void {
  for (const each of counters.values()) {
    each.accepted.push(at, each.records);
    each.refused.push(at, each.rejected);
  }
  batch(() => {
    takenAt.value = at;
    tick.value++;
  });
}

/** Use the counters in the statistics, unless the stream runs: its counters are newer. */
function takeStatistics(found: AggregatedSource[], isOnlySource: boolean): void {
  const present = new Set<string>();
  for (const source of found)
    for (const sink of source.sinks) {
      const key = keyOf(source.sourceId, sink.sinkId);
      present.add(key);
      const isNew = !counters.has(key);
      const each = counter(key);
      const { statistics } = sink;
      if (!statistics || !(isNew || isOnlySource)) continue;
      each.records = statistics.total.recordsCount;
      each.bytes = statistics.total.compressedSize;
      each.rejected = statistics.rejected?.count ?? 0;
      each.lastError = statistics.rejected?.lastError ?? null;
      each.lastRecord = time(statistics.total.lastRecordAt);
      each.oldestPending = oldestPending(statistics);
    }
  for (const key of counters.keys()) if (!present.has(key)) counters.delete(key);
}

function takeCounters(event: LiveCounters): void {
  let isUnknown = false;
  const known = new Set(sources.peek()?.map((each) => each.sourceId));
  for (const source of event.sources) {
    isUnknown ||= !known.has(source.sourceId);
    for (const sink of source.sinks) {
      const each = counter(keyOf(source.sourceId, sink.sinkId));
      each.records = sink.records;
      each.bytes = sink.bytes;
      each.rejected = sink.rejected ?? each.rejected;
      each.lastRecord = time(sink.lastRecordTime) ?? each.lastRecord;
      each.oldestPending = time(sink.oldestPendingTime);
      each.lastError = sink.lastError ?? each.lastError;
    }
  }
  behind.value = event.behindSeconds ?? 0;
  sample(Date.parse(event.time) || now());
  // The first event has all sinks; a later full one follows a creation or deletion.
  if ((isUnknown || (event.full && tick.peek() > 2)) && sources.peek()) void load().catch(() => undefined);
}

let loading: Promise<void> | null = null;
let next: Promise<void> | null = null;

async function loadPages(): Promise<void> {
  const asked = session.peek();
  const found: AggregatedSource[] = [];
  let after = "";
  for (;;) {
    const path = `${inBranch("aggregation", "sources")}?limit=${PAGE}&afterId=${encodeURIComponent(after)}`;
    const answer = await get<{ page: Page; sources: AggregatedSource[] }>(path);
    found.push(...answer.sources);
    after = answer.page.lastId;
    // Another session may have begun meanwhile, of another project or branch: these aren't its sources.
    if (session.peek() !== asked) return;
    if (answer.sources.length < PAGE || !after) break;
  }
  takeStatistics(found, feed.peek() !== "live");
  batch(() => {
    sources.value = found;
    failure.value = null;
    if (feed.peek() !== "live") sample(now());
    else tick.value++;
  });
}

/** Reload everything, once at a time. A call during a reload waits for one more, which has what was changed before. */
export function load(): Promise<void> {
  if (loading) {
    next ??= loading
      .catch(() => undefined)
      .then(() => {
        next = null;
        return load();
      });
    return next;
  }
  loading = Promise.all([loadPages(), learnRights()])
    .then(() => undefined)
    .catch((error: unknown) => {
      failure.value = error;
      throw error;
    })
    .finally(() => {
      loading = null;
    });
  return loading;
}

/** Wait until the time is over or *signal* is aborted. Listeners are removed, since the signal lives long. */
const pause = (milliseconds: number, signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end);
  });

/** Read the stream until it ends. */
async function stream(signal: AbortSignal, lastId: string): Promise<string> {
  const own = new AbortController();
  const abort = () => own.abort();
  signal.addEventListener("abort", abort, { once: true });
  let silence = setTimeout(abort, SILENCE_MS);
  let id = lastId;
  try {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (id) headers["Last-Event-ID"] = id;
    const answer = await request("GET", inBranch("live"), { signal: own.signal, raw: { body: undefined as never, headers } });
    feed.value = "live";
    await readEvents(answer, (event) => {
      clearTimeout(silence);
      silence = setTimeout(abort, SILENCE_MS);
      if (event.id) id = event.id;
      if (event.event === "counters") takeCounters(JSON.parse(event.data) as LiveCounters);
      else if (event.event === "file" || event.event === "slice") {
        const change = { ...(JSON.parse(event.data) as FileEvent), kind: event.event } as FileEvent;
        for (const take of listeners) take(change);
      } else if (event.event === "reset") void load().catch(() => undefined);
    });
    return id;
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", abort);
    own.abort();
  }
}

async function follow(signal: AbortSignal): Promise<void> {
  let wait = 500;
  let id = "";
  let hasStream = true;
  while (!signal.aborted) {
    try {
      await load();
      if (hasStream) {
        try {
          wait = 500;
          id = await stream(signal, id);
          await pause(wait, signal);
        } catch (error) {
          if (isMissing(error)) hasStream = false;
          else if (error instanceof ApiError && error.code === "tooManyStreams") {
            feed.value = "polling";
            await pause(POLL_MS, signal);
          } else throw error;
        }
      } else {
        feed.value = "polling";
        wait = 500;
        const pages = Math.ceil((sources.peek()?.length ?? 0) / PAGE) || 1;
        await pause(POLL_MS * pages, signal);
      }
    } catch (error) {
      if (signal.aborted) return;
      feed.value = "lost";
      await pause(wait, signal);
      wait = Math.min(wait * 2, MAX_PAUSE_MS);
    }
  }
}

let running: AbortController | null = null;

/** Stop, and forget what belongs to the session: the next one may be somebody else's. */
export function stopData(): void {
  running?.abort();
  running = null;
  counters.clear();
  batch(() => {
    sources.value = null;
    token.value = null;
    failure.value = null;
    feed.value = "connecting";
  });
}

/** Follow the branch of the session. */
export function startData(): void {
  stopData();
  if (!session.peek()) return;
  running = new AbortController();
  const { signal } = running;
  void follow(signal);
  const timer = setInterval(() => {
    if (feed.peek() === "live" && !document.hidden) void load().catch(() => undefined);
  }, RELOAD_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

// What is shown is renewed as soon as an outage has ended.
let known = answers.peek().outages;
answers.subscribe(({ outages }) => {
  if (outages !== known && session.peek()) void load().catch(() => undefined);
  known = outages;
});
