import { useState } from "preact/hooks";
import type { AggregatedSink, AggregatedSource } from "../api/types";
import { bytes, count, localTime, rate, shortSpan } from "../lib/format";
import { summed } from "../lib/series";
import { allCounters, counterOf, sources, tick } from "../state/data";
import { sourceHref } from "../state/router";
import { now } from "../state/session";
import { useTitle } from "../ui/hooks";
import { ActionLink, Badge, NoMatch, Pager, Spark, Time, Who } from "../ui/parts";
import { NewSource } from "./newsource";

const SPARK_SECONDS = 60;
const SHOWN = 50;
const LATE_MS = 15 * 60_000;

export type Health = "ok" | "waiting" | "disabled" | "rejecting" | "retrying" | "no sink";

/** Return the most important state of a sink. */
export function sinkHealth(sink: AggregatedSink): Health {
  if (sink.disabled) return "disabled";
  if (sink.statistics?.files.some((file) => file.state !== "imported" && (file.retryAttempt ?? 0) > 0)) return "retrying";
  const counter = counterOf(sink.sourceId, sink.sinkId);
  if (counter && counter.refused.rate(60) > 0) return "rejecting";
  return counter && counter.records > 0 ? "ok" : "waiting";
}

const BY_WEIGHT: Health[] = ["retrying", "rejecting", "ok"];

/** Return the most important state of a source: the worst of its sinks. */
export function health(source: AggregatedSource): Health {
  if (source.disabled) return "disabled";
  const sinks = source.sinks.filter((sink) => !sink.disabled);
  if (!sinks.length) return "no sink";
  const found = new Set(sinks.map(sinkHealth));
  return BY_WEIGHT.find((each) => found.has(each)) ?? "waiting";
}

function Stat({ label, value, unit, note, tone }: { label: string; value: string; unit?: string; note?: string; tone?: string }) {
  return (
    <div class="stat" data-tone={tone}>
      <dt>{label}</dt>
      <dd>
        <span class="figure">{value}</span>
        {unit && <span class="unit">{unit}</span>}
        <span class="sub">{note ?? " "}</span>
      </dd>
    </div>
  );
}

function Stats({ found }: { found: AggregatedSource[] }) {
  tick.value;
  const all = allCounters();
  const accepted = all.reduce((sum, each) => sum + each.accepted.rate(), 0);
  const refused = all.reduce((sum, each) => sum + each.refused.rate(), 0);
  const rejected = all.reduce((sum, each) => sum + each.rejected, 0);
  const records = all.reduce((sum, each) => sum + each.records, 0);
  const pending = all.flatMap((each) => each.oldestPending ?? []);
  const age = pending.length ? now() - Math.min(...pending) : null;
  const sinks = found.flatMap((source) => source.sinks);
  const onVolumes = sinks.reduce((sum, sink) => sum + (sink.statistics?.levels.local?.compressedSize ?? 0), 0);
  const files = sinks.flatMap((sink) => sink.statistics?.files ?? []);
  const importing = files.filter((file) => file.state === "importing").length;
  const failing = files.filter((file) => file.state !== "imported" && (file.retryAttempt ?? 0) > 0).length;
  return (
    <dl class="stats">
      <Stat label="Accepted" value={rate(accepted)} unit="rows/s" note={`${count(records)} in all`} />
      <Stat label="Rejected" value={rate(refused)} unit="rows/s" note={`${count(rejected)} in all`} tone={refused > 0 ? "bad" : ""} />
      <Stat
        label="Oldest record not in its table"
        value={age === null ? "–" : shortSpan(age)}
        note={age === null ? "all records are in their tables" : `since ${localTime(new Date(Math.min(...pending)), new Date())}`}
        tone={age !== null && age > LATE_MS ? "warn" : ""}
      />
      <Stat label="On volumes" value={bytes(onVolumes)} note="not uploaded yet" />
      <Stat label="Running imports" value={count(importing)} note={failing ? `${count(failing)} retrying` : "none retrying"} tone={failing ? "bad" : ""} />
    </dl>
  );
}

function Row({ source }: { source: AggregatedSource }) {
  tick.value;
  const known = source.sinks.flatMap((sink) => counterOf(source.sourceId, sink.sinkId) ?? []);
  const values = summed(known.map((each) => each.accepted.newest(SPARK_SECONDS)), SPARK_SECONDS);
  const current = known.reduce((sum, each) => sum + each.accepted.rate(), 0);
  const last = known.flatMap((each) => each.lastRecord ?? []);
  const state = health(source);
  return (
    <li class="row">
      <Who name={source.name} href={sourceHref(source.sourceId)} about={source.sourceId}>
        <span class="mono">{source.sourceId}</span> · {source.type}
      </Who>
      <Badge kind={state}>{state}</Badge>
      <Spark values={values} label={`Rows of the last minute, now ${rate(current)} a second`} />
      <span class="nums">
        {rate(current)}
        <span class="unit">/s</span>
      </span>
      <span class="nums">
        {count(known.reduce((sum, each) => sum + each.records, 0))}
        <span class="unit narrow-only"> rows</span>
      </span>
      <Time at={last.length ? Math.max(...last) : null} relative />
    </li>
  );
}

export function Overview() {
  useTitle("Sources");
  const found = sources.value!;
  const [filter, setFilter] = useState("");
  const [page, setPage] = useState(0);
  tick.value;
  const wanted = filter.trim().toLowerCase();
  const matching = found.filter((each) => !wanted || `${each.name} ${each.sourceId} ${health(each)}`.toLowerCase().includes(wanted));
  const pages = Math.max(1, Math.ceil(matching.length / SHOWN));
  const at = Math.min(page, pages - 1);
  const shown = matching.slice(at * SHOWN, (at + 1) * SHOWN);
  if (!found.length) return <NewSource isFirst />;
  return (
    <>
      <div class="title">
        <h1>Sources</h1>
        <ActionLink kind="primary" href="#/new" needs="write">
          New source
        </ActionLink>
      </div>
      <Stats found={found} />
      <section aria-label="List of sources">
        {found.length > 8 && (
          <div class="filter">
            <input
              type="search"
              aria-label="Filter sources"
              placeholder="Filter by name, id or state"
              value={filter}
              onInput={(event) => {
                setFilter(event.currentTarget.value);
                setPage(0);
              }}
            />
            <span class="quiet nums" role="status">
              {count(matching.length)} of {count(found.length)}
            </span>
          </div>
        )}
        {shown.length ? (
          <>
            <div class="rowhead" aria-hidden="true">
              <span>Source</span>
              <span>State</span>
              <span>Last minute</span>
              <span class="end">Rate</span>
              <span class="end">Rows</span>
              <span class="end">Last record</span>
            </div>
            <ul class="rows">
              {shown.map((source) => (
                <Row key={source.sourceId} source={source} />
              ))}
            </ul>
          </>
        ) : (
          <NoMatch title={`No source matches “${filter}”`} onClear={() => setFilter("")} />
        )}
        {pages > 1 && (
          <Pager back={at > 0 ? () => setPage(at - 1) : undefined} next={at < pages - 1 ? () => setPage(at + 1) : undefined}>
            {count(at * SHOWN + 1)} to {count(at * SHOWN + shown.length)} of {count(matching.length)}
          </Pager>
        )}
      </section>
    </>
  );
}
