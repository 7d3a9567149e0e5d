import { useEffect, useState } from "preact/hooks";
import { get, sinkPath } from "../api/client";
import type { AggregatedSink, Setting } from "../api/types";
import { bytes, count, span } from "../lib/format";
import { inStage, limitsOf, type PipelineFile, type Retry, type Slice, STAGES, type Trigger } from "../lib/pipeline";
import { counterOf, feed, load, onFileEvent, tick } from "../state/data";
import { now } from "../state/session";
import { readPipeline } from "../api/pipeline";
import { useInterval, useLoaded } from "../ui/hooks";
import { Empty, ErrorBox, Loading, Time } from "../ui/parts";
import { TableRows } from "./table";

const REFRESH_MS = 1_500;
const SHOWN_FILES = 4;
const SHOWN_SLICES = 24;
const SHOWN_IMPORTS = 12;

function Retried({ retry }: { retry: Retry | null }) {
  if (!retry) return null;
  return (
    <p class="wrong">
      Attempt {retry.attempt} failed: {(retry.reason || "no reason given").replace(/[.\s]*$/, ".")}
      {retry.after && (
        <>
          {" "}
          Next attempt: <Time at={retry.after} />.
        </>
      )}
    </p>
  );
}

function Progress({ trigger }: { trigger: Trigger | null }) {
  if (!trigger) return null;
  const percent = Math.round(trigger.progress * 100);
  return (
    <div class="progress">
      <progress max={100} value={percent} aria-label={`Towards the next trigger: ${trigger.text}`} />
      <span class="quiet">{trigger.text}</span>
    </div>
  );
}

function SliceBlock({ slice }: { slice: Slice }) {
  const text = `${slice.state}, ${count(slice.records)} records, ${bytes(slice.bytes)}`;
  return (
    <li class="slice" data-state={slice.state} data-failing={slice.retry !== null} title={text}>
      <span class="sr">Slice, {text}</span>
      <span aria-hidden="true" class="nums">
        {count(slice.records)}
      </span>
      {slice.trigger && <progress max={100} value={Math.round(slice.trigger.progress * 100)} aria-label={`Slice towards its upload: ${slice.trigger.text}`} />}
    </li>
  );
}

function FileBlock({ file }: { file: PipelineFile }) {
  tick.value;
  const since = file.importedAt ?? file.importingAt ?? file.closingAt ?? file.openedAt;
  const failing = file.slices.find((slice) => slice.retry);
  return (
    <article class="file" data-state={file.state} data-failing={Boolean(file.retry ?? failing)}>
      <p class="nums">
        <strong>{count(file.records)}</strong> {file.records === 1 ? "record" : "records"} · {bytes(file.bytes)}
      </p>
      <p class="quiet nums">
        {file.state === "imported" ? <Time at={file.importedAt} /> : `${span(now() - Date.parse(since))} in this state`}
      </p>
      {file.slices.length > 0 && file.state !== "imported" && (
        <ul class="slices" aria-label="Slices">
          {file.slices.slice(0, SHOWN_SLICES).map((slice) => (
            <SliceBlock key={slice.sliceId} slice={slice} />
          ))}
          {file.slices.length > SHOWN_SLICES && <li class="quiet">and {file.slices.length - SHOWN_SLICES} more</li>}
        </ul>
      )}
      {file.state === "writing" && <Progress trigger={file.trigger} />}
      <Retried retry={file.retry} />
      <Retried retry={failing?.retry ?? null} />
      {file.quarantined > 0 && <p class="wrong">The table refused {count(file.quarantined)} rows.</p>}
    </article>
  );
}

function Picture({ files }: { files: PipelineFile[] }) {
  return (
    <ol class="pipeline">
      {STAGES.map((stage) => {
        const all = files.filter((file) => file.state === stage.id);
        const shown = inStage(files, stage.id, SHOWN_FILES);
        return (
          <li key={stage.id} class="stage" data-stage={stage.id}>
            <h3>{stage.label}</h3>
            <p class="quiet">{stage.note}</p>
            {shown.length ? shown.map((file) => <FileBlock key={file.fileId} file={file} />) : <p class="nothing">–</p>}
            {all.length > shown.length && <p class="quiet">and {count(all.length - shown.length)} more</p>}
          </li>
        );
      })}
    </ol>
  );
}

function Freshness({ sink }: { sink: AggregatedSink }) {
  tick.value;
  const counter = counterOf(sink.sourceId, sink.sinkId);
  const imported = sink.statistics?.levels.target?.lastRecordAt;
  if (!counter?.records) return <p class="fresh">No record has arrived yet.</p>;
  if (counter.oldestPending === null)
    return (
      <p class="fresh" data-kind="ok">
        All rows are in the table; the last record arrived <Time at={counter.lastRecord} relative />.
      </p>
    );
  return (
    <p class="fresh">
      Rows up to <Time at={imported && Date.parse(imported) < counter.oldestPending ? imported : counter.oldestPending} /> are in the table; the oldest
      that isn't there is {span(now() - counter.oldestPending)} old.
    </p>
  );
}

function Imports({ files }: { files: PipelineFile[] }) {
  const done = inStage(files, "imported", SHOWN_IMPORTS);
  if (!done.length) return <Empty title="No import yet" />;
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label="Imports">
      <table class="grid">
        <thead>
          <tr>
            <th scope="col">In the table</th>
            <th scope="col">Rows</th>
            <th scope="col">Compressed</th>
            <th scope="col">Collected</th>
            <th scope="col">Import</th>
          </tr>
        </thead>
        <tbody>
          {done.map((file) => (
            <tr key={file.fileId}>
              <td>
                <Time at={file.importedAt} />
              </td>
              <td class="nums">{count(file.records)}</td>
              <td class="nums">{bytes(file.bytes)}</td>
              <td class="nums">{file.closingAt ? span(Date.parse(file.closingAt) - Date.parse(file.openedAt)) : "–"}</td>
              <td class="nums">{file.importedAt && file.importingAt ? span(Date.parse(file.importedAt) - Date.parse(file.importingAt)) : "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The pipeline of a sink as a picture, its freshness, the last imports and rows. */
export function Pipeline({ sink }: { sink: AggregatedSink }) {
  const path = sinkPath(sink.sourceId, sink.sinkId);
  const settings = useLoaded(`${path}/settings/${sink.version.number}`, (signal) => get<{ settings: Setting[] }>(`${path}/settings`, signal));
  const limits = limitsOf(settings.data?.settings ?? []);
  const files = useLoaded(path, (signal) => readPipeline(sink.sourceId, sink.sinkId, limits, signal));
  const [isStale, setStale] = useState(false);
  useEffect(
    () => onFileEvent((event) => event.sourceId === sink.sourceId && event.sinkId === sink.sinkId && setStale(true)),
    [sink.sourceId, sink.sinkId],
  );
  const imported = (files.data ?? []).filter((file) => file.state === "imported").map((file) => file.importedAt ?? "");
  const newest = imported.sort().at(-1) ?? "";
  useEffect(() => {
    if (newest) void load().catch(() => undefined);
  }, [newest]);
  useInterval(() => {
    const counter = counterOf(sink.sourceId, sink.sinkId);
    const moves = files.data?.some((file) => file.state === "closing" || file.state === "importing");
    if (isStale || feed.value !== "live" || moves || (counter?.accepted.rate() ?? 0) > 0 || counter?.oldestPending) {
      setStale(false);
      files.reload();
    }
  }, REFRESH_MS);
  if (files.error && !files.data) return <ErrorBox error={files.error} onRetry={files.reload} />;
  if (!files.data) return <Loading what="the pipeline" />;
  return (
    <>
      <section class="panel" aria-labelledby="pipeline">
        <h2 id="pipeline">Pipeline</h2>
        <Freshness sink={sink} />
        <Picture files={files.data} />
      </section>
      <section class="panel" aria-labelledby="imports">
        <h2 id="imports">Last imports</h2>
        <Imports files={files.data} />
      </section>
      <section class="panel" aria-labelledby="rows">
        <h2 id="rows">First rows of the table</h2>
        <TableRows sourceId={sink.sourceId} sinkId={sink.sinkId} revision={Date.parse(newest) || 0} />
      </section>
    </>
  );
}
