import { useEffect, useState } from "preact/hooks";
import { sinkPath } from "../api/client";
import type { AggregatedSink, AggregatedSource, Column } from "../api/types";
import { cleaned } from "../lib/columns";
import { rate } from "../lib/format";
import { placeText } from "../lib/places";
import { counterOf, load, sources, tick } from "../state/data";
import { go, sinkHref, sourceHref } from "../state/router";
import { ended, session } from "../state/session";
import { change } from "../state/tasks";
import { useTitle } from "../ui/hooks";
import { type Ask, Badge, Button, Confirm, ErrorBox, Menu, Tabs, Time } from "../ui/parts";
import { Settings, Versions } from "./lifecycle";
import { chosenSamples, FIRST_SAMPLE, hasTypes, MappingEditor, type Sample } from "./mapping";
import { sinkHealth } from "./overview";
import { Pipeline } from "./pipeline";
import { Rejected, shortened } from "./rejected";
import { Gone, Rename } from "./source";

interface Draft {
  columns: Column[];
  /** The version of the sink that was edited. */
  base: number;
}

/** Mappings that are not saved yet, by sink: they outlive a look at another page, and a token that ends meanwhile. */
const drafts = new Map<string, Draft>();
session.subscribe((current) => {
  if (!current && !ended.peek()) drafts.clear();
});

function MappingTab({ source, sink }: { source: AggregatedSource; sink: AggregatedSink }) {
  const { type, mapping } = sink.table;
  const key = [source.projectId, source.branchId, sink.sourceId, sink.sinkId].join("/");
  const draft = drafts.get(key);
  const [columns, setColumns] = useState<Column[]>(draft?.columns ?? mapping.columns);
  const [base, setBase] = useState(draft?.base ?? sink.version.number);
  const [sample, setSample] = useState<Sample>(chosenSamples.get(sink.sourceId) ?? FIRST_SAMPLE);
  const [error, setError] = useState<unknown>(null);
  const [saved, setSaved] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const plain = (list: Column[]) => JSON.stringify(list.map((each) => cleaned(each, hasTypes(type))));
  const isChanged = plain(columns) !== plain(mapping.columns);
  useEffect(() => {
    if (isChanged) drafts.set(key, { columns, base });
    else drafts.delete(key);
  }, [key, isChanged, columns, base]);
  const isOvertaken = sink.version.number !== base && isChanged;
  const save = async () => {
    setBusy(true);
    setError(null);
    try {
      const next = columns.map((each) => cleaned(each, hasTypes(type)));
      await change(`Change the mapping of ${sink.name}`, "PATCH", sinkPath(sink.sourceId, sink.sinkId), {
        changeDescription: "Mapping changed in the console.",
        table: { mapping: { columns: next } },
      });
      await load();
      const current = sources.peek()?.find((each) => each.sourceId === sink.sourceId)?.sinks.find((each) => each.sinkId === sink.sinkId);
      if (current) {
        setColumns(current.table.mapping.columns);
        setBase(current.version.number);
      }
      setSaved(true);
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  const reset = () => {
    setColumns(mapping.columns);
    setBase(sink.version.number);
  };
  const rejected = counterOf(sink.sourceId, sink.sinkId)?.rejected ?? 0;
  return (
    <>
      {isOvertaken && (
        <p class="note bad" role="alert">
          The sink was changed meanwhile, to version {sink.version.number}. Saving replaces that mapping by yours.
        </p>
      )}
      <MappingEditor
        sourceId={sink.sourceId}
        tableType={type}
        columns={columns}
        onChange={(next) => {
          setColumns(next);
          setSaved(false);
        }}
        sample={sample}
        onSample={setSample}
      />
      <ErrorBox error={error} />
      <div class="actions bar">
        <span role="status" class="quiet">
          {saved && !isChanged ? (
            <>
              Saved: new records use it within a second.{" "}
              {(rejected > 0 || sample.isRejected) && <a href={sinkHref(sink.sourceId, sink.sinkId, "rejected")}>Test and replay the rejected records</a>}
            </>
          ) : isChanged ? (
            "Not saved yet."
          ) : (
            "This is the current mapping."
          )}
        </span>
        <Button onClick={reset} disabled={!isChanged}>
          Undo
        </Button>
        <Button kind="primary" needs="write" busy={isBusy} disabled={!isChanged} onClick={() => void save()}>
          Save the mapping
        </Button>
      </div>
    </>
  );
}

function SinkHead({ source, sink, ask, onRename }: { source: AggregatedSource; sink: AggregatedSink; ask: (next: Ask) => void; onRename: () => void }) {
  tick.value;
  const path = sinkPath(sink.sourceId, sink.sinkId);
  const counter = counterOf(sink.sourceId, sink.sinkId);
  const place = placeText(sink.table);
  const state = sinkHealth(sink);
  const run = (label: string, method: string, target: string) => async () => {
    await change(label, method, target);
    await load();
  };
  const items = [
    { label: "Rename", act: onRename },
    sink.disabled
      ? { label: "Enable", act: () => ask({ title: `Enable “${sink.name}”?`, text: <p>The sink gets new records of the source again.</p>, action: "Enable", act: run(`Enable ${sink.name}`, "PUT", `${path}/enable`) }) }
      : { label: "Disable", act: () => ask({ title: `Disable “${sink.name}”?`, text: <p>The sink gets no records while it is disabled. Rows that aren't imported yet wait until you enable it.</p>, action: "Disable", act: run(`Disable ${sink.name}`, "PUT", `${path}/disable`) }) },
    {
      label: "Delete",
      danger: true,
      act: () =>
        ask({
          title: `Delete “${sink.name}”?`,
          text: <p>The table stays, and you can undelete the sink.</p>,
          action: "Delete",
          danger: true,
          act: async () => {
            await run(`Delete ${sink.name}`, "DELETE", path)();
            go(sourceHref(source.sourceId));
          },
        }),
    },
  ];
  const error = counter?.lastError;
  return (
    <>
      <nav class="crumbs" aria-label="Path">
        <a href="#/">Sources</a> / <a href={sourceHref(source.sourceId)}>{source.name}</a>
      </nav>
      <div class="title">
        <div>
          <h1>{sink.name}</h1>
          <p class="quiet">
            <Badge kind={state}>{state}</Badge> <span class="mono">{place}</span> ·{" "}
            {sink.table.type} · <span class="nums">{rate(counter?.accepted.rate() ?? 0)} rows/s</span>
          </p>
          {sink.description && <p class="quiet">{sink.description}</p>}
        </div>
        <Menu label="Change" needs="write" items={items} />
      </div>
      {error && (counter?.refused.rate(300) ?? 0) > 0 && (
        <p class="note bad">
          Records are rejected: {error.column && <strong>{error.column}: </strong>}
          {shortened(error.message)} (<Time at={error.time} relative />) <a href={sinkHref(sink.sourceId, sink.sinkId, "rejected")}>See them</a>
        </p>
      )}
    </>
  );
}

export function SinkPage({ sourceId, sinkId, tab }: { sourceId: string; sinkId: string; tab: string }) {
  const source = sources.value!.find((each) => each.sourceId === sourceId);
  const sink = source?.sinks.find((each) => each.sinkId === sinkId);
  const [ask, setAsk] = useState<Ask | null>(null);
  const [isRenaming, setRenaming] = useState(false);
  useTitle(sink ? `${sink.name}, ${source!.name}` : sinkId);
  if (!source) return <Gone what="source" id={sourceId} home="#/" label="the sources" />;
  if (!sink) return <Gone what="sink" id={sinkId} home={sourceHref(sourceId)} label={source.name} />;
  const path = sinkPath(sourceId, sinkId);
  const tabs = [
    { id: "", label: "Pipeline" },
    { id: "mapping", label: "Mapping", count: sink.table.mapping.columns.length },
    { id: "rejected", label: "Rejected", count: counterOf(sourceId, sinkId)?.rejected },
    { id: "versions", label: "Versions" },
    { id: "settings", label: "Settings" },
  ];
  return (
    <>
      <SinkHead source={source} sink={sink} ask={setAsk} onRename={() => setRenaming(true)} />
      {isRenaming && <Rename path={path} name={sink.name} description={sink.description} onDone={() => setRenaming(false)} />}
      <Tabs items={tabs} current={tab} link={(id) => sinkHref(sourceId, sinkId, id)} />
      {tab === "" && <Pipeline sink={sink} />}
      {tab === "mapping" && <MappingTab source={source} sink={sink} />}
      {tab === "rejected" && <Rejected sink={sink} />}
      {tab === "versions" && <Versions path={path} entity={sink} />}
      {tab === "settings" && <Settings path={path} />}
      {ask && <Confirm ask={ask} onClose={() => setAsk(null)} />}
    </>
  );
}
