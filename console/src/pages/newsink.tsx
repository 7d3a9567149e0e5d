import { useState } from "preact/hooks";
import { get, inBranch, sourcePath } from "../api/client";
import type { Column } from "../api/types";
import { columnsFor } from "../lib/columns";
import { firstConnection, firstPlace, partsOf, type Place, tableOf, type Targets, targetsOf, typesOf } from "../lib/places";
import { load, sources } from "../state/data";
import { may } from "../state/rights";
import { go, sinkHref, sourceHref } from "../state/router";
import { change } from "../state/tasks";
import { useLoaded, useTitle } from "../ui/hooks";
import { Button, Empty, ErrorBox, Field, Loading, NotAllowed } from "../ui/parts";
import { chosenSamples, FIRST_SAMPLE, hasTypes, MappingEditor, type Sample } from "./mapping";
import { Gone } from "./source";

/** Where sinks of the project can put their rows. */
export const useTargets = () => useLoaded("targets", async (signal) => targetsOf(await get<Targets>(inBranch("connections"), signal)));

const PART_LABELS = { schema: "Schema", namespace: "Namespace", table: "Table", path: "Folder" };
const PART_HINTS = {
  schema: "If empty, the schema of the connection.",
  namespace: "Stream creates it if it doesn't exist.",
  table: "Stream creates it if it doesn't exist.",
  path: "Below the URL of the connection. Stream creates it if it doesn't exist.",
};

/** The destination of the rows. */
export function PlaceFields({ targets, place, onChange }: { targets: Targets; place: Place; onChange: (next: Place) => void }) {
  const types = typesOf(targets);
  const named = targets.connections.filter((each) => each.type === place.type);
  return (
    <>
      <Field label="Kind of table">
        {(attributes) => (
          <select
            {...attributes}
            value={place.type}
            onChange={(event) => {
              const type = event.currentTarget.value;
              onChange({ ...place, type, connection: firstConnection(targets, type) });
            }}
          >
            {types.map((type) => (
              <option key={type}>{type}</option>
            ))}
          </select>
        )}
      </Field>
      {hasTypes(place.type) ? (
        <>
          <Field label="Connection" hint={named.length ? undefined : "The name of a connection in the settings of the service."}>
            {(attributes) =>
              named.length ? (
                <select {...attributes} value={place.connection} onChange={(event) => onChange({ ...place, connection: event.currentTarget.value })}>
                  {named.map((each) => (
                    <option key={each.name} value={each.name}>
                      {each.name}
                      {each.isAvailable === false ? " (does not answer)" : ""}
                    </option>
                  ))}
                </select>
              ) : (
                <input {...attributes} required value={place.connection} onInput={(event) => onChange({ ...place, connection: event.currentTarget.value })} />
              )
            }
          </Field>
          {partsOf(place.type).map((part) => (
            <Field key={part} label={PART_LABELS[part]} hint={PART_HINTS[part]}>
              {(attributes) => (
                <input
                  {...attributes}
                  class="mono"
                  required={part !== "schema"}
                  maxLength={part === "path" ? 256 : 63}
                  value={place[part]}
                  onInput={(event) => onChange({ ...place, [part]: event.currentTarget.value })}
                />
              )}
            </Field>
          ))}
        </>
      ) : (
        <Field label="Table" hint="Stage, bucket and table, such as in.c-shop.events. Stream creates it if it doesn't exist.">
          {(attributes) => <input {...attributes} required class="mono" value={place.tableId} onInput={(event) => onChange({ ...place, tableId: event.currentTarget.value })} />}
        </Field>
      )}
    </>
  );
}

/** Says what is missing for a sink, instead of its form. */
export function NoTarget() {
  return (
    <Empty title="There is no target for rows yet">
      <p>
        A sink needs a target, and this service has none for your project. An operator declares it in <code>target.connections</code> of the
        settings.
      </p>
    </Empty>
  );
}

/** Initial columns: an id, the time, and a column for each member of the sample. */
export function firstColumns(sample: string, typed: boolean): Column[] {
  const columns: Column[] = [
    { type: "uuid", name: "id", ...(typed ? { dataType: "uuid" } : {}) },
    { type: "datetime", name: "received_at", ...(typed ? { dataType: "timestamp" } : {}) },
  ];
  try {
    const parsed = JSON.parse(sample) as unknown;
    columns.push(...columnsFor(Array.isArray(parsed) ? parsed[0] : parsed, columns, typed));
  } catch {
    // Not JSON: the whole body is one column.
  }
  if (columns.length === 2) columns.push({ type: "body", name: "body", ...(typed ? { dataType: "string" } : {}) });
  return columns;
}

/** A form for a sink of a source. */
export function NewSink({ sourceId }: { sourceId: string }) {
  const source = sources.value!.find((each) => each.sourceId === sourceId);
  useTitle("New sink");
  const targets = useTargets();
  if (!source) return <Gone what="source" id={sourceId} home="#/" label="the sources" />;
  return (
    <>
      <nav class="crumbs" aria-label="Path">
        <a href="#/">Sources</a> / <a href={sourceHref(sourceId)}>{source.name}</a>
      </nav>
      <h1>New sink</h1>
      {!may("write") ? (
        <NotAllowed title="You can't create sinks" right="write" />
      ) : !targets.data ? (
        targets.error ? <ErrorBox error={targets.error} onRetry={targets.reload} /> : <Loading what="connections" />
      ) : targets.data.tableTypes.length ? (
        <SinkForm sourceId={sourceId} targets={targets.data} />
      ) : (
        <NoTarget />
      )}
    </>
  );
}

function SinkForm({ sourceId, targets }: { sourceId: string; targets: Targets }) {
  const [sample, setSample] = useState<Sample>(chosenSamples.get(sourceId) ?? FIRST_SAMPLE);
  const [name, setName] = useState("Events");
  const [place, setPlace] = useState<Place>(() => firstPlace(sourceId, targets));
  const [columns, setColumns] = useState<Column[]>(() => firstColumns(sample.body, hasTypes(place.type)));
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setBusy] = useState(false);
  const setTyped = (next: Place) => {
    if (hasTypes(next.type) !== hasTypes(place.type)) setColumns(firstColumns(sample.body, hasTypes(next.type)));
    setPlace(next);
  };
  const create = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const task = await change(`Create the sink “${name}”`, "POST", sourcePath(sourceId, "sinks"), { type: "table", name, table: tableOf(place, columns, hasTypes(place.type)) });
      await load();
      go(sinkHref(sourceId, String(task.outputs?.sinkId ?? "")));
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return (
    <form onSubmit={(event) => void create(event)}>
      <section class="panel fields" aria-label="Table">
        <Field label="Name">
          {(attributes) => <input {...attributes} required maxLength={40} value={name} onInput={(event) => setName(event.currentTarget.value)} />}
        </Field>
        <PlaceFields targets={targets} place={place} onChange={setTyped} />
      </section>
      <MappingEditor sourceId={sourceId} tableType={place.type} columns={columns} onChange={setColumns} sample={sample} onSample={setSample} />
      <ErrorBox error={error} />
      <div class="actions bar">
        <a class="button plain" href={sourceHref(sourceId)}>
          Cancel
        </a>
        <Button kind="primary" type="submit" needs="write" busy={isBusy}>
          Create the sink
        </Button>
      </div>
    </form>
  );
}
