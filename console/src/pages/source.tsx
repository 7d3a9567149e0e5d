import { useEffect, useRef, useState } from "preact/hooks";
import { call, isMissing, sourcePath } from "../api/client";
import type { AggregatedSink, AggregatedSource } from "../api/types";
import { count, rate } from "../lib/format";
import { placeText } from "../lib/places";
import { summed } from "../lib/series";
import { snippets } from "../lib/snippets";
import { counterOf, load, SERIES_SECONDS, sources, takenAt, tick } from "../state/data";
import { go, sinkHref, sourceHref } from "../state/router";
import { change } from "../state/tasks";
import { RateChart } from "../ui/chart";
import { useTitle } from "../ui/hooks";
import { ActionLink, type Ask, Badge, Button, Choice, Code, Confirm, CopyButton, Empty, ErrorBox, Field, Menu, Spark, Tabs, Time, Who } from "../ui/parts";
import { health, sinkHealth } from "./overview";
import { Settings, Versions } from "./lifecycle";
import { TailView } from "./tail";

export function Gone({ what, id, home, label }: { what: string; id: string; home: string; label: string }) {
  useTitle(`No ${what} ${id}`);
  return (
    <Empty title={`There is no ${what} “${id}”`} isPage>
      <p>
        It was deleted, perhaps in another tab, or never existed. See <a href={home}>{label}</a>
        {what === "source" && (
          <>
            {" "}
            or the <a href="#/deleted">deleted sources</a>
          </>
        )}
        .
      </p>
    </Empty>
  );
}

/** The part of the question whether a source is to be deleted that names its sinks. */
const withSinks = (found: number): string => (found === 0 ? "" : found === 1 ? ", and its sink is deleted with it" : `, and its ${count(found)} sinks are deleted with it`);

/** Name and description, editable in place. */
export function Rename({ path, name, description, onDone }: { path: string; name: string; description: string; onDone: () => void }) {
  const [next, setNext] = useState({ name, description });
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    const before = document.activeElement;
    form.current?.querySelector("input")?.focus();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setBusy] = useState(false);
  const save = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await change(`Rename to “${next.name}”`, "PATCH", path, { ...next, changeDescription: "Renamed in the console." });
      await load();
      onDone();
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return (
    <form ref={form} class="panel" onSubmit={(event) => void save(event)}>
      <Field label="Name">
        {(attributes) => (
          <input {...attributes} required maxLength={40} value={next.name} onInput={(event) => setNext({ ...next, name: event.currentTarget.value })} />
        )}
      </Field>
      <Field label="Description">
        {(attributes) => (
          <textarea {...attributes} rows={2} maxLength={4096} value={next.description} onInput={(event) => setNext({ ...next, description: event.currentTarget.value })} />
        )}
      </Field>
      <ErrorBox error={error} />
      <div class="actions">
        <Button onClick={onDone}>Cancel</Button>
        <Button kind="primary" type="submit" busy={isBusy}>
          Save
        </Button>
      </div>
    </form>
  );
}

export function SourceUrl({ source }: { source: AggregatedSource }) {
  const url = source.http?.url ?? source.otlp?.baseUrl ?? "";
  return (
    <div class="url">
      <code class="mono">{url}</code>
      <CopyButton text={url} label="Copy URL" />
    </div>
  );
}

export function Snippets({ source, sample }: { source: AggregatedSource; sample?: unknown }) {
  const found = snippets(source, sample);
  const [chosen, setChosen] = useState(found[0]?.id ?? "");
  const shown = found.find((each) => each.id === chosen) ?? found[0];
  if (!shown) return null;
  return (
    <>
      <Choice label="Program" items={found} value={shown.id} onChange={setChosen} />
      <Code text={shown.text} label={`Program in ${shown.label}`} />
      {shown.hint && <p class="hint">{shown.hint}</p>}
    </>
  );
}

/** Sends one record from this page, as a producer would. */
export function SendRecord({ source, sample, isOpen = false }: { source: AggregatedSource; sample: string; isOpen?: boolean }) {
  const [text, setText] = useState(sample);
  const [answer, setAnswer] = useState<{ isGood: boolean; text: string } | null>(null);
  const [isBusy, setBusy] = useState(false);
  if (!source.http) return null;
  const url = source.http.url;
  const send = async () => {
    setBusy(true);
    try {
      const response = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: text, credentials: "omit" });
      const body = await response.text();
      let message = body;
      try {
        message = (JSON.parse(body) as { message?: string }).message ?? body;
      } catch {
        // Not JSON: shown unchanged.
      }
      setAnswer({ isGood: response.ok, text: `${response.status} ${message}` });
    } catch {
      setAnswer({ isGood: false, text: "This browser can't reach the source. The setting source.http.publicUrl defines its address." });
    } finally {
      setBusy(false);
    }
  };
  return (
    <details class="more" open={isOpen}>
      <summary>Send a record from here</summary>
      <Field label="Record">
        {(attributes) => <textarea {...attributes} class="mono" rows={5} spellcheck={false} value={text} onInput={(event) => setText(event.currentTarget.value)} />}
      </Field>
      <div class="actions start">
        <Button busy={isBusy} onClick={() => void send()}>
          Send
        </Button>
        <span role="status" class={answer?.isGood ? "good" : "wrong"}>
          {answer?.text}
        </span>
      </div>
    </details>
  );
}

function SinkRow({ source, sink }: { source: AggregatedSource; sink: AggregatedSink }) {
  tick.value;
  const counter = counterOf(source.sourceId, sink.sinkId);
  const place = placeText(sink.table);
  const state = sinkHealth(sink);
  return (
    <li class="row sinkrow">
      <Who name={sink.name} href={sinkHref(source.sourceId, sink.sinkId)} about={place}>
        {sink.table.type} · <span class="mono">{place}</span>
      </Who>
      <Badge kind={state}>{state}</Badge>
      <Spark values={counter?.accepted.newest(60) ?? []} label={`Rows of the last minute, now ${rate(counter?.accepted.rate() ?? 0)} a second`} />
      <span class="nums">
        {count(counter?.records ?? 0)} <span class="unit">rows</span>
      </span>
      <span class="nums">
        {counter?.rejected ? <a href={sinkHref(source.sourceId, sink.sinkId, "rejected")}>{count(counter.rejected)} rejected</a> : <span class="quiet">0 rejected</span>}
      </span>
      <Time at={counter?.lastRecord} relative />
    </li>
  );
}

function Flow({ source }: { source: AggregatedSource }) {
  tick.value;
  const known = source.sinks.flatMap((sink) => counterOf(source.sourceId, sink.sinkId) ?? []);
  const accepted = summed(known.map((each) => each.accepted.newest(SERIES_SECONDS)), SERIES_SECONDS);
  const refused = summed(known.map((each) => each.refused.newest(SERIES_SECONDS)), SERIES_SECONDS);
  const current = known.reduce((sum, each) => sum + each.accepted.rate(), 0);
  const currentRefused = known.reduce((sum, each) => sum + each.refused.rate(), 0);
  return (
    <section class="panel" aria-labelledby="rate">
      <div class="title">
        <h2 id="rate">Rate of the last 15 minutes</h2>
        <p class="legend nums">
          <span data-series="accepted">{rate(current)} rows/s</span>
          <span data-series="refused">{rate(currentRefused)} rejected/s</span>
        </p>
      </div>
      <RateChart
        accepted={accepted}
        refused={refused}
        known={Math.max(0, ...known.map((each) => each.accepted.known))}
        end={Math.floor(takenAt.value / 1000)}
        label={`Rows a second over the last 15 minutes, now ${rate(current)}, of them rejected ${rate(currentRefused)}`}
      />
    </section>
  );
}

function Overview({ source }: { source: AggregatedSource }) {
  return (
    <>
      <Flow source={source} />
      <section class="panel" aria-labelledby="sinks">
        <div class="title">
          <h2 id="sinks">Sinks</h2>
          <ActionLink href={sourceHref(source.sourceId, "new-sink")} needs="write">
            New sink
          </ActionLink>
        </div>
        {source.sinks.length ? (
          <ul class="rows">
            {source.sinks.map((sink) => (
              <SinkRow key={sink.sinkId} source={source} sink={sink} />
            ))}
          </ul>
        ) : (
          <Empty title="Records arrive, but are not stored">
            <p>A sink is a table and the mapping that fills it. Without a sink, the source accepts records but doesn't store them.</p>
            <p>
              <ActionLink kind="primary" href={sourceHref(source.sourceId, "new-sink")} needs="write">
                Create a sink
              </ActionLink>
            </p>
          </Empty>
        )}
      </section>
      <section class="panel" aria-labelledby="send">
        <h2 id="send">Send records</h2>
        <SourceUrl source={source} />
        <Snippets source={source} />
        <SendRecord source={source} sample={'{"user":{"name":"Ada"}}'} />
      </section>
    </>
  );
}

const TABS = [
  { id: "", label: "Overview" },
  { id: "tail", label: "Live tail" },
  { id: "versions", label: "Versions" },
  { id: "settings", label: "Settings" },
];

export function SourcePage({ sourceId, tab }: { sourceId: string; tab: string }) {
  const source = sources.value!.find((each) => each.sourceId === sourceId);
  const [ask, setAsk] = useState<Ask | null>(null);
  const [isRenaming, setRenaming] = useState(false);
  useTitle(source?.name ?? sourceId);
  tick.value;
  if (!source) return <Gone what="source" id={sourceId} home="#/" label="the sources" />;
  const path = sourcePath(sourceId);
  const run = (label: string, method: string, target: string) => async () => {
    try {
      await change(label, method, target);
    } catch (error) {
      // Another user has already made the change.
      if (!(method === "DELETE" && isMissing(error))) throw error;
    }
    await load();
  };
  const items = [
    { label: "Rename", act: () => setRenaming(true) },
    source.disabled
      ? { label: "Enable", act: () => setAsk({ title: `Enable “${source.name}”?`, text: <p>The source and the sinks that were disabled with it accept records again.</p>, action: "Enable", act: run(`Enable ${source.name}`, "PUT", `${path}/enable`) }) }
      : { label: "Disable", act: () => setAsk({ title: `Disable “${source.name}”?`, text: <p>Its URL answers 404 until you enable it. Rows that aren't imported yet wait.</p>, action: "Disable", act: run(`Disable ${source.name}`, "PUT", `${path}/disable`) }) },
    {
      label: "Replace the secret",
      danger: true,
      act: () =>
        setAsk({
          title: "Replace the secret in the URL?",
          text: <p>The current URL stops working immediately, and every producer needs the new one.</p>,
          action: "Replace",
          danger: true,
          act: async () => {
            await call("POST", `${path}/rotate-secret`);
            await load();
          },
        }),
    },
    {
      label: "Delete",
      danger: true,
      act: () =>
        setAsk({
          title: `Delete “${source.name}”?`,
          text: <p>Its URL answers 404{withSinks(source.sinks.length)}. The tables stay, and the source can be undeleted.</p>,
          action: "Delete",
          danger: true,
          act: async () => {
            await run(`Delete ${source.name}`, "DELETE", path)();
            go("#/");
          },
        }),
    },
  ];
  const state = health(source);
  return (
    <>
      <nav class="crumbs" aria-label="Path">
        <a href="#/">Sources</a>
      </nav>
      <div class="title">
        <div>
          <h1>{source.name}</h1>
          <p class="quiet">
            <Badge kind={state}>{state}</Badge> <span class="mono">{source.sourceId}</span> · {source.type}
          </p>
          {source.description && <p class="quiet">{source.description}</p>}
        </div>
        <Menu label="Change" needs="write" items={items} />
      </div>
      {isRenaming && <Rename path={path} name={source.name} description={source.description} onDone={() => setRenaming(false)} />}
      <Tabs items={TABS} current={tab} link={(id) => sourceHref(sourceId, id)} />
      {tab === "" && <Overview source={source} />}
      {tab === "tail" && <TailView sourceId={sourceId} />}
      {tab === "versions" && <Versions path={path} entity={source} />}
      {tab === "settings" && <Settings path={path} />}
      {ask && <Confirm ask={ask} onClose={() => setAsk(null)} />}
    </>
  );
}
