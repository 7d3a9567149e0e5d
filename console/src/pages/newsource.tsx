import { useEffect, useRef, useState } from "preact/hooks";
import { sourcePath, inBranch } from "../api/client";
import { count } from "../lib/format";
import { countersOf, load, sources, tick } from "../state/data";
import { sinkHref, sourceHref } from "../state/router";
import { change } from "../state/tasks";
import { Tail } from "../state/tail";
import { useTitle } from "../ui/hooks";
import { Button, clipped, Code, ErrorBox, Field, pretty, Time } from "../ui/parts";
import { FIRST_SAMPLE } from "./mapping";
import { firstColumns, PlaceFields, type Place, slug, tableOf } from "./newsink";
import { hasTypes } from "./mapping";
import { SendRecord, Snippets, SourceUrl } from "./source";
import { TableRows } from "./table";

const EXCERPT = 2_000;

/** Shows the first record as it arrives, and then its row. */
function FirstRow({ sourceId, sinkId, sample }: { sourceId: string; sinkId: string; sample: string }) {
  tick.value;
  const source = sources.value!.find((each) => each.sourceId === sourceId);
  const tail = useRef<Tail | null>(null);
  tail.current ??= new Tail(sourceId);
  useEffect(() => () => tail.current?.stop(), []);
  const sink = source?.sinks.find((each) => each.sinkId === sinkId);
  const arrived = countersOf(sourceId).some((each) => each.records > 0);
  const imported = sink?.statistics?.levels.target?.recordsCount ?? 0;
  useEffect(() => {
    if (!arrived || imported) return;
    const timer = setInterval(() => void load().catch(() => undefined), 1_000);
    return () => clearInterval(timer);
  }, [arrived, imported > 0]);
  if (!source) return <p role="status">The source was deleted meanwhile.</p>;
  const first = tail.current.records.value[0];
  const steps = [
    { label: "Record accepted", isDone: Boolean(first) || arrived },
    { label: "Row on disk", isDone: arrived },
    { label: "Row in the table", isDone: imported > 0 },
  ];
  return (
    <>
      <section class="panel" aria-labelledby="first">
        <h2 id="first">Send a first record</h2>
        <SourceUrl source={source} />
        <Snippets source={source} sample={parsed(sample)} />
        <SendRecord source={source} sample={sample} isOpen />
      </section>
      <section class="panel" aria-labelledby="arrives">
        <h2 id="arrives">See it arrive</h2>
        <div role="status">
        <ol class="steps">
          {steps.map((step) => (
            <li key={step.label} data-done={step.isDone}>
              {step.label}
              <span class="sr">{step.isDone ? ": done" : ": waiting"}</span>
            </li>
          ))}
        </ol>
        </div>
        {first && (
          <>
            <p class="quiet">
              The newest record, <Time at={first.timestamp} />, from {first.ip}
            </p>
            <Code text={clipped(pretty(first.body), EXCERPT)} label="The newest record" copy={false} />
          </>
        )}
        {imported > 0 && (
          <>
            <p class="good">{count(imported)} {imported === 1 ? "row is" : "rows are"} in the table.</p>
            <TableRows sourceId={sourceId} sinkId={sinkId} revision={imported} />
          </>
        )}
        <p>
          Go on to <a href={sinkHref(sourceId, sinkId)}>the sink and its pipeline</a>, or to <a href={sourceHref(sourceId)}>the source</a>.
        </p>
      </section>
    </>
  );
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return { message: text };
  }
}

/** Three fields, then a program to send a record with, then its row. */
export function NewSource() {
  useTitle("New source");
  const [name, setName] = useState("My Source");
  const [type, setType] = useState<"http" | "otlp">("http");
  const [sample, setSample] = useState(FIRST_SAMPLE.body);
  const [edited, setEdited] = useState<Place | null>(null);
  const [made, setMade] = useState<{ sourceId: string; sinkId: string } | null>(null);
  const [sourceId, setSourceId] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setBusy] = useState(false);
  const id = slug(name) || "stream";
  const place = edited ?? { type: "keboola", tableId: `in.c-${id}.events`, connection: "", schema: "", table: id.replace(/-/g, "_") };
  if (made)
    return (
      <>
        <nav class="crumbs" aria-label="Path">
          <a href="#/">Sources</a>
        </nav>
        <h1>{name} is ready</h1>
        <FirstRow {...made} sample={sample} />
      </>
    );
  const create = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      let source = sourceId;
      if (!source) {
        const task = await change(`Create the source “${name}”`, "POST", inBranch("sources"), { type, name });
        source = String(task.outputs?.sourceId ?? id);
        setSourceId(source);
      }
      const columns = type === "otlp" ? otlpColumns(hasTypes(place.type)) : firstColumns(sample, hasTypes(place.type));
      const task = await change("Create the sink “Events”", "POST", sourcePath(source, "sinks"), { type: "table", name: "Events", table: tableOf(place, columns) });
      await load();
      setMade({ sourceId: source, sinkId: String(task.outputs?.sinkId ?? "events") });
    } catch (problem) {
      setError(problem);
      setBusy(false);
      void load().catch(() => undefined);
    }
  };
  return (
    <>
      <nav class="crumbs" aria-label="Path">
        <a href="#/">Sources</a>
      </nav>
      <h1>New source</h1>
      <form onSubmit={(event) => void create(event)} class="narrow">
        <section class="panel">
          <Field label="Name" hint={<>Its id will be <code>{id}</code>.</>}>
            {(attributes) => <input {...attributes} required maxLength={40} value={name} disabled={sourceId !== null} onInput={(event) => setName(event.currentTarget.value)} />}
          </Field>
          <Field label="How records come in">
            {(attributes) => (
              <select {...attributes} value={type} disabled={sourceId !== null} onChange={(event) => setType(event.currentTarget.value as "http" | "otlp")}>
                <option value="http">HTTP: anything that can POST</option>
                <option value="otlp">OTLP: OpenTelemetry's logs, metrics and traces</option>
              </select>
            )}
          </Field>
          {type === "http" && (
            <Field label="A record as you will send it" hint="Each member becomes a column; you can change the columns later.">
              {(attributes) => <textarea {...attributes} class="mono" rows={6} spellcheck={false} value={sample} onInput={(event) => setSample(event.currentTarget.value)} />}
            </Field>
          )}
          <PlaceFields place={place} onChange={setEdited} />
        </section>
        <ErrorBox error={error} />
        {sourceId && Boolean(error) && <p class="quiet">The source exists; the button tries its sink again.</p>}
        <div class="actions">
          <a class="button plain" href="#/">
            Cancel
          </a>
          <Button kind="primary" type="submit" busy={isBusy}>
            Create
          </Button>
        </div>
      </form>
    </>
  );
}

function otlpColumns(typed: boolean) {
  return [
    { type: "uuid" as const, name: "id", ...(typed ? { dataType: "uuid" } : {}) },
    { type: "datetime" as const, name: "received_at", ...(typed ? { dataType: "timestamp" } : {}) },
    { type: "body" as const, name: "record", ...(typed ? { dataType: "json" } : {}) },
  ];
}
