import { useEffect, useRef, useState } from "preact/hooks";
import { sourcePath, inBranch } from "../api/client";
import { count } from "../lib/format";
import { firstPlace, type Place, placeText, tableOf } from "../lib/places";
import { idOf } from "../lib/slug";
import { countersOf, load, sources, tick } from "../state/data";
import { go, href, sinkHref, sourceHref } from "../state/router";
import { may } from "../state/rights";
import { session } from "../state/session";
import { change } from "../state/tasks";
import { Tail } from "../state/tail";
import { useTitle } from "../ui/hooks";
import { Button, clipped, Code, ErrorBox, Field, NotAllowed, pretty, Time } from "../ui/parts";
import { FIRST_SAMPLE } from "./mapping";
import { firstColumns, NoTarget, PlaceFields, useTargets } from "./newsink";
import { hasTypes } from "./mapping";
import { Gone, SendRecord, Snippets, SourceUrl } from "./source";
import { TableRows } from "./table";

const EXCERPT = 2_000;

/** Samples entered by the user, by source; its programs send them. */
const samples = new Map<string, string>();
session.subscribe(() => samples.clear());

/** Shows the first record when it arrives, and then its row. */
export function FirstRow({ sourceId, sinkId }: { sourceId: string; sinkId: string }) {
  tick.value;
  const source = sources.value!.find((each) => each.sourceId === sourceId);
  useTitle(source ? `${source.name} is ready` : sourceId);
  const sample = samples.get(sourceId) ?? FIRST_SAMPLE.body;
  const tail = useRef<Tail | null>(null);
  if (may("tail")) tail.current ??= new Tail(sourceId);
  useEffect(() => () => tail.current?.stop(), []);
  const sink = source?.sinks.find((each) => each.sinkId === sinkId);
  const arrived = countersOf(sourceId).some((each) => each.records > 0);
  const imported = sink?.statistics?.levels.target?.recordsCount ?? 0;
  useEffect(() => {
    if (!arrived || imported) return;
    const timer = setInterval(() => void load().catch(() => undefined), 1_000);
    return () => clearInterval(timer);
  }, [arrived, imported > 0]);
  if (!source) return <Gone what="source" id={sourceId} home="#/" label="the sources" />;
  const first = tail.current?.records.value[0];
  const steps = [
    { label: "Record accepted", isDone: Boolean(first) || arrived },
    { label: "Row on disk", isDone: arrived },
    { label: "Row in the table", isDone: imported > 0 },
  ];
  return (
    <>
      <nav class="crumbs" aria-label="Path">
        <a href="#/">Sources</a>
      </nav>
      <h1>{source.name} is ready</h1>
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

/** Return the members of *next* that differ from *first*. */
const changed = (first: Place, next: Place): Partial<Place> =>
  Object.fromEntries(Object.entries(next).filter(([name, value]) => first[name as keyof Place] !== value));

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return { message: text };
  }
}

/** Three fields, then a program that sends a record, then its row.
 *
 * :param isFirst: whether the branch has no source yet, so that this is its start page.
 */
export function NewSource({ isFirst = false }: { isFirst?: boolean }) {
  useTitle(isFirst ? "Sources" : "New source");
  const [name, setName] = useState("My Source");
  const [type, setType] = useState<"http" | "otlp">("http");
  const [sample, setSample] = useState(FIRST_SAMPLE.body);
  const [edited, setEdited] = useState<Partial<Place> | null>(null);
  const [sourceId, setSourceId] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setBusy] = useState(false);
  const [isOpen, setOpen] = useState(false);
  const id = idOf(name);
  const targets = useTargets();
  // The destination follows the name until the user edits it.
  const named = targets.data && firstPlace(id, targets.data);
  const place = named && { ...named, ...edited };
  const create = async (event: Event) => {
    event.preventDefault();
    if (!place) return;
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
      const task = await change("Create the sink “Events”", "POST", sourcePath(source, "sinks"), { type: "table", name: "Events", table: tableOf(place, columns, hasTypes(place.type)) });
      await load();
      samples.set(source, sample);
      go(href("new", source, String(task.outputs?.sinkId ?? "events")));
    } catch (problem) {
      setError(problem);
      setBusy(false);
      void load().catch(() => undefined);
    }
  };
  const cannot = !may("write") ? (
    <NotAllowed title={isFirst ? "You can't create the first source" : "You can't create sources"} right="write" />
  ) : targets.data && !targets.data.tableTypes.length ? (
    <NoTarget />
  ) : null;
  return (
    <>
      {isFirst ? (
        <>
          <h1>No source yet</h1>
          <p class="lead narrow">
            A source is an address that takes records.{" "}
            {cannot ? "The records of a source become rows of a table." : "Create a source, send a record from this page, and see it become a row of a table."}
          </p>
        </>
      ) : (
        <>
          <nav class="crumbs" aria-label="Path">
            <a href="#/">Sources</a>
          </nav>
          <h1>New source</h1>
        </>
      )}
      {cannot ?? (
        <form onSubmit={(event) => void create(event)} class="narrow">
          <section class="panel">
            <Field label="Name" hint={id ? <>Its id will be <code>{id}</code>.</> : name ? "The service makes its id: the name has no letter from a to z." : "Its id is made from the name."}>
              {(attributes) => <input {...attributes} required maxLength={40} value={name} disabled={sourceId !== null} onInput={(event) => setName(event.currentTarget.value)} />}
            </Field>
            <Field label="Protocol">
              {(attributes) => (
                <select {...attributes} value={type} disabled={sourceId !== null} onChange={(event) => setType(event.currentTarget.value as "http" | "otlp")}>
                  <option value="http">HTTP: any program that can send POST requests</option>
                  <option value="otlp">OTLP: OpenTelemetry logs, metrics and traces</option>
                </select>
              )}
            </Field>
            {type === "http" && (
              <Field label="A sample record" hint="Each member becomes a column; you can change the columns later.">
                {(attributes) => <textarea {...attributes} class="mono" rows={6} spellcheck={false} value={sample} onInput={(event) => setSample(event.currentTarget.value)} />}
              </Field>
            )}
            {targets.data && place ? (
              <details class="more" open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)} onInvalidCapture={() => setOpen(true)}>
                <summary>
                  Rows go to the {place.type} table <code>{placeText({ ...place, tableId: hasTypes(place.type) ? undefined : place.tableId, mapping: { columns: [] } })}</code>
                </summary>
                <div class="stack">
                  <PlaceFields targets={targets.data} place={place} onChange={(next) => setEdited(changed(named!, next))} />
                </div>
              </details>
            ) : targets.error ? (
              <ErrorBox error={targets.error} onRetry={targets.reload} />
            ) : (
              <p class="quiet" role="status">
                Loading the targets …
              </p>
            )}
          </section>
          <ErrorBox error={error} />
          {sourceId && Boolean(error) && <p class="quiet">The source was created, but its sink was not. Use the button to try again.</p>}
          <div class="actions">
            {!isFirst && (
              <a class="button plain" href="#/">
                Cancel
              </a>
            )}
            <Button kind="primary" type="submit" needs="write" busy={isBusy} disabled={!place}>
              Create
            </Button>
          </div>
        </form>
      )}
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
