import { useEffect, useState } from "preact/hooks";
import { get, sinkPath } from "../api/client";
import type { AggregatedSink, AggregatedSource, Sink } from "../api/types";
import { cleaned } from "../lib/columns";
import { type Draft, followed, isEdited, isOvertaken, isSame } from "../lib/drafts";
import { rate } from "../lib/format";
import { placeText } from "../lib/places";
import { counterOf, load, sources, tick } from "../state/data";
import { draftKey, draftOf, keepDraft, namesake } from "../state/drafts";
import { token, whose } from "../state/rights";
import { go, sinkHref, sourceHref } from "../state/router";
import { change } from "../state/tasks";
import { useTitle } from "../ui/hooks";
import { type Ask, Badge, Button, Confirm, ErrorBox, Loading, Menu, Tabs, Time } from "../ui/parts";
import { Settings, Versions } from "./lifecycle";
import { chosenSamples, FIRST_SAMPLE, hasTypes, MappingEditor, type Sample } from "./mapping";
import { sinkHealth } from "./overview";
import { Pipeline } from "./pipeline";
import { Rejected, shortened, useKept } from "./rejected";
import { Gone, Rename } from "./source";

function MappingTab({ source, sink }: { source: AggregatedSource; sink: AggregatedSink }) {
  const { type, mapping } = sink.table;
  const typed = hasTypes(type);
  const current = mapping.columns;
  const key = draftKey(source, sink);
  const [held, setHeld] = useState<Draft>(() => draftOf(key) ?? { columns: current, base: current });
  const [sample, setSample] = useState<Sample>(chosenSamples.get(sink.sourceId) ?? FIRST_SAMPLE);
  const [error, setError] = useState<unknown>(null);
  const [saved, setSaved] = useState(false);
  const [isBusy, setBusy] = useState(false);
  // While it is being saved, the sink may have the columns before or after it.
  const draft = isBusy ? held : followed(held, current, typed);
  const isChanged = isEdited(draft, typed);
  const isBehind = !isBusy && isOvertaken(draft, current, typed);
  useEffect(() => {
    if (draft !== held) {
      setHeld(draft);
      setSaved(false);
    }
    keepDraft(key, isChanged ? draft : null);
  }, [key.sink, key.token, draft, held, isChanged]);
  const earlier = isChanged ? undefined : namesake(key);
  const [, showAgain] = useState(0);
  const discardEarlier = () => {
    if (earlier) keepDraft(earlier.key, null);
    showAgain((round) => round + 1);
  };
  const takeEarlier = () => {
    if (earlier) setHeld(earlier.draft);
    discardEarlier();
  };
  const save = async () => {
    setBusy(true);
    setError(null);
    try {
      const path = sinkPath(sink.sourceId, sink.sinkId);
      // The page learns of changes by others within half a minute: none is replaced before it was seen.
      const { table } = await get<Sink>(path);
      if (!isSame(table.mapping.columns, draft.base, typed)) return await load();
      await change(`Change the mapping of ${sink.name}`, "PATCH", path, {
        changeDescription: "Mapping changed in the console.",
        table: { mapping: { columns: draft.columns.map((each) => cleaned(each, typed)) } },
      });
      await load();
      const next = sources.peek()?.find((each) => each.sourceId === sink.sourceId)?.sinks.find((each) => each.sinkId === sink.sinkId);
      const stored = next?.table.mapping.columns ?? draft.columns;
      // What was edited meanwhile is kept.
      setHeld((now) => ({ columns: now.columns === draft.columns ? stored : now.columns, base: stored }));
      setSaved(true);
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  const follow = () => setHeld({ columns: current, base: current });
  const keepMine = () => setHeld({ columns: draft.columns, base: current });
  const rejected = counterOf(sink.sourceId, sink.sinkId)?.rejected ?? 0;
  return (
    <>
      <MappingEditor
        sourceId={sink.sourceId}
        tableType={type}
        columns={draft.columns}
        onChange={(columns) => {
          setHeld({ columns, base: draft.base });
          setSaved(false);
        }}
        sample={sample}
        onSample={setSample}
      />
      {earlier && (
        <div class="note" role="status">
          <p>There are edits of this mapping that aren't saved. They were made with another token named “{key.name}”.</p>
          <div class="actions start">
            <Button onClick={takeEarlier}>Continue them</Button>
            <Button onClick={discardEarlier}>Discard them</Button>
          </div>
        </div>
      )}
      {isBehind && (
        <div class="note bad" role="alert">
          <p>Someone else has changed this mapping. If you keep yours and save it, it replaces theirs.</p>
          <div class="actions start">
            <Button onClick={follow}>Take theirs</Button>
            <Button onClick={keepMine}>Keep mine</Button>
          </div>
        </div>
      )}
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
        <Button onClick={follow} disabled={!isChanged}>
          Undo
        </Button>
        <Button kind="primary" needs="write" busy={isBusy} disabled={!isChanged || isBehind} onClick={() => void save()}>
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
  const kept = useKept(sourceId, sinkId, tab === "rejected");
  useTitle(sink ? `${sink.name}, ${source!.name}` : sinkId);
  if (!source) return <Gone what="source" id={sourceId} home="#/" label="the sources" />;
  if (!sink) return <Gone what="sink" id={sinkId} home={sourceHref(sourceId)} label={source.name} />;
  const path = sinkPath(sourceId, sinkId);
  const tabs = [
    { id: "", label: "Pipeline" },
    { id: "mapping", label: "Mapping", count: sink.table.mapping.columns.length },
    { id: "rejected", label: "Rejected", count: kept },
    { id: "versions", label: "Versions" },
    { id: "settings", label: "Settings" },
  ];
  return (
    <>
      <SinkHead source={source} sink={sink} ask={setAsk} onRename={() => setRenaming(true)} />
      {isRenaming && <Rename path={path} name={sink.name} description={sink.description} onDone={() => setRenaming(false)} />}
      <Tabs items={tabs} current={tab} link={(id) => sinkHref(sourceId, sinkId, id)} />
      {tab === "" && <Pipeline sink={sink} />}
      {/* The edits of a token are found only when its id is known. */}
      {tab === "mapping" && (token.value ? <MappingTab key={whose()} source={source} sink={sink} /> : <Loading what="the mapping" />)}
      {tab === "rejected" && <Rejected sink={sink} />}
      {tab === "versions" && <Versions path={path} entity={sink} />}
      {tab === "settings" && <Settings path={path} />}
      {ask && <Confirm ask={ask} onClose={() => setAsk(null)} />}
    </>
  );
}
