import { useEffect, useState } from "preact/hooks";
import { get, inBranch, isMissing, sourcePath } from "../api/client";
import type { Column } from "../api/types";
import { columnsFor } from "../lib/columns";
import { firstPlace, partsOf, type Place, tableOf } from "../lib/places";
import { load, sources } from "../state/data";
import { go, sinkHref, sourceHref } from "../state/router";
import { change } from "../state/tasks";
import { useLoaded, useTitle } from "../ui/hooks";
import { Button, ErrorBox, Field, Loading } from "../ui/parts";
import { chosenSamples, FIRST_SAMPLE, hasTypes, MappingEditor, type Sample } from "./mapping";
import { Gone } from "./source";

interface Connections {
  connections: { name: string; type: string; isAvailable: boolean | null; message?: string }[];
}

/** Targets of this service, if it lists them. */
export function useConnections() {
  return useLoaded("connections", async (signal) => {
    try {
      return (await get<Connections>(inBranch("connections"), signal)).connections;
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  });
}

const PART_LABELS = { schema: "Schema", namespace: "Namespace", table: "Table", path: "Folder" };
const PART_HINTS = {
  schema: "Empty is that of the connection.",
  namespace: "It is created if it doesn't exist.",
  table: "It is created if it doesn't exist.",
  path: "Below the place of the connection. It is created if it doesn't exist.",
};

/** The destination of the rows. */
export function PlaceFields({ place, onChange }: { place: Place; onChange: (next: Place) => void }) {
  const found = useConnections();
  const connections = found.data;
  const own = connections?.filter((each) => each.type !== "keboola") ?? [];
  // Declared connections come first.
  const types = [...new Set([...(connections ? own.map((each) => each.type) : []), "keboola", ...(connections ? [] : ["postgres"])])];
  const named = own.filter((each) => each.type === place.type);
  const first = own.find((each) => each.isAvailable !== false);
  useEffect(() => {
    // A declared connection is the default.
    if (first && !hasTypes(place.type)) onChange({ ...place, type: first.type, connection: first.name });
  }, [first?.name]);
  // Show no fields until the targets are known: otherwise they would change during input.
  if (found.isLoading && !connections) return <Loading what="connections" />;
  return (
    <>
      <Field label="Kind of table">
        {(attributes) => (
          <select
            {...attributes}
            value={place.type}
            onChange={(event) => {
              const type = event.currentTarget.value;
              onChange({ ...place, type, connection: own.find((each) => each.type === type)?.name ?? place.connection });
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
        <Field label="Table" hint="Stage, bucket and table, such as in.c-shop.events. It is created if it doesn't exist.">
          {(attributes) => <input {...attributes} required class="mono" value={place.tableId} onInput={(event) => onChange({ ...place, tableId: event.currentTarget.value })} />}
        </Field>
      )}
    </>
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

export const slug = (name: string): string =>
  name.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40);

export function NewSink({ sourceId }: { sourceId: string }) {
  const source = sources.value!.find((each) => each.sourceId === sourceId);
  useTitle("New sink");
  const [sample, setSample] = useState<Sample>(chosenSamples.get(sourceId) ?? FIRST_SAMPLE);
  const [name, setName] = useState("Events");
  const [place, setPlace] = useState<Place>(() => firstPlace(slug(sourceId)));
  const [columns, setColumns] = useState<Column[]>(() => firstColumns(sample.body, false));
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setBusy] = useState(false);
  if (!source) return <Gone what="source" id={sourceId} home="#/" label="the sources" />;
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
    <>
      <nav class="crumbs" aria-label="Path">
        <a href="#/">Sources</a> / <a href={sourceHref(sourceId)}>{source.name}</a>
      </nav>
      <h1>New sink</h1>
      <form onSubmit={(event) => void create(event)}>
        <section class="panel fields" aria-label="Table">
          <Field label="Name">
            {(attributes) => <input {...attributes} required maxLength={40} value={name} onInput={(event) => setName(event.currentTarget.value)} />}
          </Field>
          <PlaceFields place={place} onChange={setTyped} />
        </section>
        <MappingEditor sourceId={sourceId} tableType={place.type} columns={columns} onChange={setColumns} sample={sample} onSample={setSample} />
        <ErrorBox error={error} />
        <div class="actions bar">
          <a class="button plain" href={sourceHref(sourceId)}>
            Cancel
          </a>
          <Button kind="primary" type="submit" busy={isBusy}>
            Create the sink
          </Button>
        </div>
      </form>
    </>
  );
}
