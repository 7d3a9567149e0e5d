/** The editor of a mapping: columns as rows, each with its value for a sample record. */

import { useEffect, useMemo, useState } from "preact/hooks";
import { ApiError, call, errorText, request, sourcePath } from "../api/client";
import { readEvents } from "../api/sse";
import { COLUMN_TYPES, type Column, type ColumnType, type TailRecord, type TestedRow } from "../api/types";
import { session } from "../state/session";
import { cleaned, columnName, columnOf, columnsFor, MAX_COLUMNS } from "../lib/columns";
import { Button, clipped, ErrorBox, Field } from "../ui/parts";
import { useRepeats, useSettled } from "../ui/hooks";

const TYPING_MS = 250;
const VALUE_CHARS = 400;
const TAIL_SECONDS = 30;
const MAX_SAMPLE_CHARS = 700_000;
const HAS_NO_TYPES = "keboola";

export const hasTypes = (tableType: string): boolean => tableType !== HAS_NO_TYPES;

export interface Sample {
  body: string;
  isBase64?: boolean;
  headers?: Record<string, string>;
  ip?: string;
  /** Description of its origin for the user. */
  origin: string;
  isRejected?: boolean;
}

export const FIRST_SAMPLE: Sample = {
  body: '{\n  "user": {"name": "Ada"},\n  "action": "signed-in"\n}',
  origin: "An example; paste one of your records.",
};

/** Samples chosen on other pages, by source. */
export const chosenSamples = new Map<string, Sample>();
// Sources of another project or branch may have the same ids.
session.subscribe(() => chosenSamples.clear());

interface Tested {
  row: TestedRow | null;
  more: number;
  faults: Map<number, string>;
  problem: string | null;
}

const NOTHING: Tested = { row: null, more: 0, faults: new Map(), problem: null };

/** The row of the sample record, requested from the API after a pause in typing. */
function useTested(sourceId: string, tableType: string, columns: Column[], sample: Sample): Tested & { isTesting: boolean } {
  const body = useMemo(() => {
    const headers = Object.entries(sample.headers ?? {}).map(([name, value]) => ({ name, value }));
    const record = { body: sample.body, isBase64: sample.isBase64 ?? false, headers, ip: sample.ip ?? "" };
    return JSON.stringify({ table: { type: tableType, mapping: { columns: columns.map((each) => cleaned(each, hasTypes(tableType))) } }, record });
  }, [tableType, columns, sample]);
  const settled = useSettled(body, TYPING_MS);
  const [repeat, ended] = useRepeats(settled);
  const [state, setState] = useState<Tested>(NOTHING);
  const [tested, setTested] = useState("");
  useEffect(() => {
    if (!columns.length) {
      setState(NOTHING);
      setTested(settled);
      return;
    }
    const abort = new AbortController();
    const done = (next: Tested, error: unknown = null) => {
      if (abort.signal.aborted) return;
      ended(error);
      setState(next);
      setTested(settled);
    };
    const raw = { body: settled, headers: { "Content-Type": "application/json" } };
    call<{ rows: TestedRow[] }>("POST", sourcePath(sourceId, "test", "mapping"), { raw, signal: abort.signal }).then(
      ({ rows }) => {
        const row = rows[0] ?? null;
        const faults = new Map<number, string>();
        row?.columns.forEach((each, place) => each.error !== undefined && faults.set(place, each.error));
        done({ row, more: Math.max(0, rows.length - 1), faults, problem: row ? null : "The sample has no record." });
      },
      (error: unknown) => {
        const faults = new Map<number, string>();
        let problem: string | null = null;
        if (error instanceof ApiError) {
          const all = error.faults.length ? error.faults : [{ message: errorText(error), param: error.details.param }];
          for (const fault of all) {
            const place = columnOf(fault.param) ?? named(columns, fault.message);
            if (place === null) problem = problem ?? fault.message;
            else if (!faults.has(place)) faults.set(place, fault.message);
          }
        } else problem = errorText(error);
        done({ row: null, more: 0, faults, problem }, error);
      },
    );
    return () => abort.abort();
  }, [settled, sourceId, repeat]);
  return { ...state, isTesting: tested !== body };
}

/** Return the column named in a message without a position. */
function named(columns: Column[], message: string): number | null {
  const name = /column "([^"]+)"/i.exec(message)?.[1];
  const place = columns.findIndex((each) => each.name === name);
  return place < 0 ? null : place;
}

const TYPE_TEXTS: Record<ColumnType, string> = {
  path: "a member of the body",
  body: "the whole body",
  headers: "all headers",
  datetime: "time of arrival",
  ip: "address of the sender",
  uuid: "a new id",
  template: "a Jsonnet template",
};

const DATA_TYPES = ["string", "boolean", "integer", "double", "decimal(18,4)", "timestamp", "date", "json", "uuid"];

interface RowProps {
  place: number;
  last: number;
  column: Column;
  typed: boolean;
  value: string | undefined;
  fault: string | undefined;
  isStale: boolean;
  /** Whether rows can replace others; false for Parquet files, which are append-only. */
  hasKey: boolean;
  change: (place: number, next: Partial<Column>) => void;
  remove: (place: number) => void;
  move: (place: number, by: number) => void;
}

function ColumnRow({ place, last, column, typed, hasKey, value, fault, isStale, change, remove, move }: RowProps) {
  const label = column.name || `column ${place + 1}`;
  const set = (next: Partial<Column>) => change(place, next);
  const isText = column.type === "path" || column.type === "template";
  return (
    <li class="column" data-fault={fault !== undefined}>
      <div class="edit">
        <input
          class="name"
          aria-label={`Name of column ${place + 1}`}
          aria-invalid={fault !== undefined}
          value={column.name}
          maxLength={128}
          spellcheck={false}
          onInput={(event) => set({ name: event.currentTarget.value })}
        />
        <select aria-label={`What ${label} holds`} value={column.type} onChange={(event) => set({ type: event.currentTarget.value as ColumnType })}>
          {COLUMN_TYPES.map((type) => (
            <option key={type} value={type}>
              {TYPE_TEXTS[type]}
            </option>
          ))}
        </select>
        {column.type === "path" && (
          <>
            <input
              class="mono wide"
              aria-label={`Path of ${label}`}
              placeholder="user.name"
              value={column.path ?? ""}
              maxLength={1024}
              spellcheck={false}
              onInput={(event) => set({ path: event.currentTarget.value })}
            />
            <input
              class="mono"
              aria-label={`Default of ${label}, if the path is missing`}
              placeholder="no default"
              title="The value if there is nothing at the path. Without one, such records are rejected."
              value={column.defaultValue ?? ""}
              onInput={(event) => set({ defaultValue: event.currentTarget.value || undefined })}
            />
          </>
        )}
        {column.type === "template" && (
          <textarea
            class="mono wide"
            rows={2}
            aria-label={`Template of ${label}`}
            placeholder="Body('user.name') + ' ' + Header('X-Region', 'none')"
            value={column.template?.content ?? ""}
            spellcheck={false}
            onInput={(event) => set({ template: { language: "jsonnet", content: event.currentTarget.value } })}
          />
        )}
        {typed && (
          <select class="datatype" aria-label={`Type of ${label} in the table`} value={column.dataType ?? "string"} onChange={(event) => set({ dataType: event.currentTarget.value })}>
            {[...new Set([...DATA_TYPES, column.dataType ?? "string"])].map((type) => (
              <option key={type}>{type}</option>
            ))}
          </select>
        )}
        <span class="flags">
          {isText && (
            <label title="Store a text without JSON's quotes.">
              <input type="checkbox" checked={column.rawString ?? false} onChange={(event) => set({ rawString: event.currentTarget.checked })} /> plain text
            </label>
          )}
          {typed && (
            <label title="A missing value and null become NULL.">
              <input type="checkbox" checked={column.nullable ?? false} onChange={(event) => set({ nullable: event.currentTarget.checked })} /> nullable
            </label>
          )}
          {(hasKey || column.primaryKey) && (
            <label title="Part of the primary key of the table.">
              <input type="checkbox" checked={column.primaryKey ?? false} onChange={(event) => set({ primaryKey: event.currentTarget.checked })} /> key
            </label>
          )}
        </span>
        <span class="tools">
          <button type="button" aria-label={`Move ${label} up`} disabled={place === 0} onClick={() => move(place, -1)}>
            ↑
          </button>
          <button type="button" aria-label={`Move ${label} down`} disabled={place === last} onClick={() => move(place, 1)}>
            ↓
          </button>
          <button type="button" aria-label={`Remove ${label}`} onClick={() => remove(place)}>
            ×
          </button>
        </span>
      </div>
      <output class="cell mono" data-stale={isStale} aria-label={`Value of ${label}`}>
        {fault !== undefined ? <span class="wrong">{fault}</span> : value === undefined ? <span class="quiet">…</span> : value === "" ? <span class="quiet">(empty)</span> : clipped(value, VALUE_CHARS)}
      </output>
    </li>
  );
}

async function newestRecord(sourceId: string, signal: AbortSignal): Promise<Sample | null> {
  const path = `${sourcePath(sourceId, "tail")}?limit=1&duration=${TAIL_SECONDS}`;
  const answer = await request("GET", path, { signal });
  let found: Sample | null = null;
  await readEvents(answer, ({ event, data }) => {
    if (event !== "record") return;
    const record = JSON.parse(data) as TailRecord;
    found = { body: record.body, isBase64: record.isBase64, headers: record.headers, ip: record.ip, origin: "The latest record." };
    if (record.isCut) (found as Sample).origin = "The beginning of the latest record, which is too large to show completely.";
  });
  return found;
}

function SampleEditor({ sourceId, sample, onChange }: { sourceId: string; sample: Sample; onChange: (next: Sample) => void }) {
  const [waiting, setWaiting] = useState<AbortController | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => () => waiting?.abort(), [waiting]);
  const fetchOne = async () => {
    const abort = new AbortController();
    setWaiting(abort);
    setError(null);
    try {
      const found = await newestRecord(sourceId, abort.signal);
      if (found) onChange(found);
      else setError(new Error(`No record arrived within ${TAIL_SECONDS} seconds.`));
    } catch (problem) {
      if (!abort.signal.aborted) setError(problem);
    } finally {
      setWaiting(null);
    }
  };
  const isLarge = sample.body.length > MAX_SAMPLE_CHARS;
  return (
    <section class="panel" aria-labelledby="sample">
      <div class="title">
        <h2 id="sample">Sample record</h2>
        {waiting ? (
          <Button onClick={() => waiting.abort()}>Stop waiting</Button>
        ) : (
          <Button needs="tail" onClick={() => void fetchOne()}>
            Take the next record
          </Button>
        )}
      </div>
      <Field label="Body" hint={waiting ? "Waiting for a record of this source …" : sample.origin} error={isLarge ? "The sample is too large to be tested: shorten it." : null}>
        {(attributes) => (
          <textarea
            {...attributes}
            class="mono"
            rows={8}
            spellcheck={false}
            value={sample.body}
            onInput={(event) => onChange({ ...sample, body: event.currentTarget.value, isBase64: false, origin: "Your own record." })}
          />
        )}
      </Field>
      <ErrorBox error={error} />
    </section>
  );
}

export function MappingEditor(props: {
  sourceId: string;
  tableType: string;
  columns: Column[];
  onChange: (columns: Column[]) => void;
  sample: Sample;
  onSample: (sample: Sample) => void;
}) {
  const { sourceId, tableType, columns, onChange, sample } = props;
  const typed = hasTypes(tableType);
  const tested = useTested(sourceId, tableType, columns, sample);
  const parsed = useMemo(() => {
    try {
      return JSON.parse(sample.body) as unknown;
    } catch {
      return null;
    }
  }, [sample.body]);
  const missing = useMemo(() => columnsFor(Array.isArray(parsed) ? parsed[0] : parsed, columns, typed), [parsed, columns, typed]);
  const change = (place: number, next: Partial<Column>) => onChange(columns.map((each, index) => (index === place ? { ...each, ...next } : each)));
  const move = (place: number, by: number) => {
    const next = [...columns];
    const [moved] = next.splice(place, 1);
    next.splice(place + by, 0, moved!);
    onChange(next);
  };
  const add = () => {
    const name = columnName("column", new Set(columns.map((each) => each.name.toLowerCase())));
    onChange([...columns, { type: "path", name, path: "", rawString: true, ...(typed ? { dataType: "string" } : {}) }]);
  };
  const faults = tested.faults.size;
  return (
    <div class="mapping">
      <SampleEditor sourceId={sourceId} sample={sample} onChange={props.onSample} />
      <section class="panel" aria-labelledby="columns">
        <div class="title">
          <h2 id="columns">Columns, and the row that the sample becomes</h2>
          <p class="verdict" role="status" data-kind={tested.problem || faults ? "bad" : "ok"}>
            {tested.isTesting
              ? "Testing …"
              : tested.problem
                ? tested.problem
                : faults
                  ? `${faults} ${faults === 1 ? "column has" : "columns have"} no value: Stream rejects such a record.`
                  : tested.row
                    ? `The record becomes a row${tested.more ? `, and ${tested.more} more` : ""}.`
                    : "No column yet."}
          </p>
        </div>
        <ol class="columns">
          {columns.map((column, place) => (
            <ColumnRow
              key={place}
              place={place}
              last={columns.length - 1}
              column={column}
              typed={typed}
              hasKey={tableType !== "parquet"}
              value={tested.row?.columns[place]?.value}
              fault={tested.faults.get(place)}
              isStale={tested.isTesting}
              change={change}
              remove={(index) => onChange(columns.filter((_, each) => each !== index))}
              move={move}
            />
          ))}
        </ol>
        <div class="actions start">
          <Button onClick={add} disabled={columns.length >= MAX_COLUMNS}>
            Add a column
          </Button>
          <Button onClick={() => onChange([...columns, ...missing])} disabled={!missing.length}>
            {missing.length ? `Add ${missing.length === 1 ? "a column" : `${missing.length} columns`} from the sample` : "Every member has a column"}
          </Button>
          <span class="quiet nums">
            {columns.length} of at most {MAX_COLUMNS}
          </span>
        </div>
      </section>
    </div>
  );
}
