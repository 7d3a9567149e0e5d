/** Rejected records of a sink: reasons, records, a test of a changed mapping, and replay. */

import { useEffect, useState } from "preact/hooks";
import { call, get, isMissing, sinkPath } from "../api/client";
import type { AggregatedSink, RejectedDeleted, RejectedDetail, RejectedList, RejectedReason, RejectedRecord, ReplayTest } from "../api/types";
import { bytes, count } from "../lib/format";
import { everText, missingText, type Replayed, replayText } from "../lib/rejected";
import { counterOf, load, tick } from "../state/data";
import { keptOf, learnKept } from "../state/kept";
import { go, sinkHref } from "../state/router";
import { may } from "../state/rights";
import { change } from "../state/tasks";
import { useInterval, useLoaded } from "../ui/hooks";
import { type Ask, Button, clipped, Code, Confirm, Empty, ErrorBox, Loading, NotAllowed, pretty, Time } from "../ui/parts";
import { chosenSamples } from "./mapping";

const LIMIT = 100;
/** Maximum number of records in a list of the API. */
const MOST = 1000;
const REFRESH_MS = 3_000;
/** Interval of the number of kept records while their list isn't shown. */
const KEPT_MS = 15_000;
const SHOWN_CHARS = 100_000;
const EXCERPT = 160;

const keyOf = (reason: { reason: string; column?: string }) => JSON.stringify([reason.reason, reason.column ?? ""]);

/** Return a message without the column at its beginning. */
export const shortened = (message: string): string => message.replace(/^Cannot convert column "[^"]*" to CSV value:\s*-?\s*/, "");

/** Return a query string of the given values. */
const query = (given: Record<string, string | undefined>) =>
  new URLSearchParams(Object.entries(given).filter((each): each is [string, string] => !!each[1])).toString();

type Selection = { reason?: string; column?: string; ids?: string[] };

/** What the API is to be asked for: a reason and its column; records without a column one by one if there are others of the same reason. */
async function selectionOf(path: string, reasons: RejectedReason[], chosen: RejectedReason | undefined): Promise<Selection> {
  if (!chosen) return {};
  if (reasons.filter((each) => each.reason === chosen.reason).length === 1) return { reason: chosen.reason };
  if (chosen.column) return { reason: chosen.reason, column: chosen.column };
  const { records } = await get<RejectedList>(`${path}?limit=${MOST}&reason=${encodeURIComponent(chosen.reason)}`);
  return { ids: records.filter((each) => keyOf(each) === keyOf(chosen)).map((each) => each.id) };
}

function Record({ sink, id, onFix, onGone }: { sink: AggregatedSink; id: string; onFix: (record: RejectedDetail) => void; onGone: () => void }) {
  const path = sinkPath(sink.sourceId, sink.sinkId, "rejected", id);
  const found = useLoaded(path, (signal) => get<RejectedDetail>(path, signal));
  const [error, setError] = useState<unknown>(null);
  if (found.error && isMissing(found.error)) return <p class="quiet">This record has been replayed or deleted.</p>;
  if (found.error) return <ErrorBox error={found.error} onRetry={found.reload} />;
  if (!found.data) return <Loading what="the record" />;
  const record = found.data;
  const remove = async () => {
    try {
      await call("DELETE", path);
      onGone();
    } catch (problem) {
      setError(problem);
    }
  };
  return (
    <div class="detail">
      <p class="note bad">
        {record.column && <strong>{record.column}: </strong>}
        {shortened(record.message)}
      </p>
      <Code text={clipped(pretty(record.body), SHOWN_CHARS)} label="Body of the record" />
      <details class="more">
        <summary>Headers</summary>
        <table class="pairs">
          <tbody>
            {Object.entries(record.headers).map(([name, value]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td class="mono">{clipped(value, EXCERPT)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </details>
      <ErrorBox error={error} />
      <div class="actions start">
        <Button kind="primary" needs="write" onClick={() => onFix(record)}>
          Fix the mapping with this record
        </Button>
        <Button kind="quiet" needs="write" onClick={() => void remove()}>
          Delete
        </Button>
        <span class="quiet">
          on {record.nodeId}, from {record.ip || "an unknown address"}
        </span>
      </div>
    </div>
  );
}

function Tested({ result }: { result: ReplayTest }) {
  const wrong = result.results.find((each) => !each.accepted);
  const missing = missingText(result.nodes, "are not tested");
  return (
    <p class={result.rejected || missing ? "note bad" : "note"} role="status">
      Of {count(result.tested)} kept records, the present mapping takes {count(result.accepted)} and rejects {count(result.rejected)}.
      {wrong && ` For example: ${wrong.column ? `${wrong.column}: ` : ""}${shortened(wrong.message ?? wrong.reason ?? "")}`}
      {missing && ` ${missing}.`}
    </p>
  );
}

/** Return how many rejected records of a sink are kept, as its list shows it; `undefined` if it isn't known.
 *
 * :param isListed: whether the list is shown, which asks the API itself.
 */
export function useKept(sourceId: string, sinkId: string, isListed: boolean): number | undefined {
  const path = sinkPath(sourceId, sinkId, "rejected");
  const asks = may("tail") && !isListed;
  const asked = useLoaded(`${asks}${path}`, async (signal) => {
    try {
      if (asks) learnKept(path, (await get<RejectedList>(`${path}?limit=1`, signal)).total);
    } catch (problem) {
      if (!isMissing(problem)) throw problem;
    }
  });
  useInterval(() => asks && asked.reload(), KEPT_MS);
  return keptOf(path);
}

/** The rejected records of a sink, if the token may see records. */
export function Rejected({ sink }: { sink: AggregatedSink }) {
  return may("tail") ? <RejectedRecords sink={sink} /> : <NotAllowed title="Rejected records are not shown" right="tail" />;
}

function RejectedRecords({ sink }: { sink: AggregatedSink }) {
  tick.value;
  const path = sinkPath(sink.sourceId, sink.sinkId, "rejected");
  const [reason, setReason] = useState<string | null>(null);
  const [opened, setOpened] = useState<string | null>(null);
  const [held, setHeld] = useState<RejectedRecord[]>([]);
  const [test, setTest] = useState<ReplayTest | null>(null);
  const [outcome, setOutcome] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState("");
  const [ask, setAsk] = useState<Ask | null>(null);
  const [ofReason, ofColumn] = reason === null ? [] : (JSON.parse(reason) as string[]);
  const chosen = query({ reason: ofReason, column: ofColumn });
  const found = useLoaded(`${path}?${chosen}`, async (signal) => {
    try {
      return await get<RejectedList>(`${path}?limit=${LIMIT}&${chosen}`, signal);
    } catch (problem) {
      if (isMissing(problem)) return null;
      throw problem;
    }
  });
  const everRejected = counterOf(sink.sourceId, sink.sinkId)?.rejected ?? 0;
  useEffect(() => {
    if (found.data) found.reload();
  }, [everRejected]);
  useEffect(() => {
    if (found.data && reason === null) learnKept(path, found.data.total);
  }, [path, found.data, reason]);
  useInterval(() => found.data && found.reload(), REFRESH_MS);
  if (found.error && !found.data) return <ErrorBox error={found.error} onRetry={found.reload} />;
  if (found.isLoading && !found.data) return <Loading what="rejected records" />;
  if (!found.data) return <Empty title="Not available">This API doesn't show rejected records.</Empty>;
  const { reasons, total, dropped, nodes } = found.data;
  const newest = found.data.records.filter((each) => reason === null || keyOf(each) === reason);
  // What is read doesn't move away while others arrive.
  const records = opened === null ? newest : held;
  const open = (id: string | null) => {
    setHeld(records);
    setOpened(id);
  };
  const group = reasons.find((each) => keyOf(each) === reason);
  const away = nodes.filter((node) => !node.available);
  const run = (what: string, act: () => Promise<unknown>) => async () => {
    setBusy(what);
    setError(null);
    try {
      await act();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy("");
    }
  };
  const tryMapping = run("test", async () => {
    setTest(await call<ReplayTest>("POST", `${path}/test`, { body: { mapping: { columns: sink.table.mapping.columns }, ...(await selectionOf(path, reasons, group)) } }));
  });
  const replay = run("replay", async () => {
    const task = await change(`Replay rejected records of ${sink.name}`, "POST", `${path}/replay`, await selectionOf(path, reasons, group));
    setOutcome(replayText((task.outputs ?? {}) as Replayed) ?? task.result ?? "The records were replayed.");
    setTest(null);
    open(null);
    found.reload();
    await load();
  });
  const removeAll = () =>
    setAsk({
      title: reason === null ? "Delete all rejected records?" : "Delete the records with this reason?",
      text: <p>You can't restore them.</p>,
      action: "Delete",
      danger: true,
      act: async () => {
        const { ids, ...selection } = await selectionOf(path, reasons, group);
        let missing = "";
        if (ids) for (const id of ids) await call("DELETE", `${path}/${encodeURIComponent(id)}`);
        else missing = missingText((await call<RejectedDeleted | null>("DELETE", `${path}?${query(selection)}`))?.nodes, "are still kept");
        setOutcome(missing && `${missing}: delete them later.`);
        open(null);
        found.reload();
      },
    });
  const fix = (record: RejectedDetail) => {
    const isBase64 = record.bodyEncoding === "base64";
    chosenSamples.set(sink.sourceId, { body: record.body, isBase64, headers: record.headers, ip: record.ip, origin: `A rejected record: ${shortened(record.message)}`, isRejected: true });
    go(sinkHref(sink.sourceId, sink.sinkId, "mapping"));
  };
  if (!total && !reasons.length)
    return (
      <>
        {outcome && (
          <p class="note" role="status">
            {outcome}
          </p>
        )}
        {away.length > 0 && <Away nodes={away} />}
        <Empty title="No record is waiting">
          <p>Stream refuses a record that the mapping can't render, and keeps it here until you replay it or it is too old.</p>
          {everRejected > 0 && <p>{everText(everRejected)}</p>}
        </Empty>
      </>
    );
  return (
    <>
      {away.length > 0 && <Away nodes={away} />}
      {dropped > 0 && <p class="note bad">{count(dropped)} older records were dropped: the space for rejected records is full. Replay or delete some.</p>}
      <section class="panel" aria-labelledby="reasons">
        <div class="title">
          <h2 id="reasons">{total === 1 ? "One rejected record is" : `${count(total)} rejected records are`} kept</h2>
          <span class="actions">
            <Button busy={busy === "test"} onClick={() => void tryMapping()}>
              Test the mapping
            </Button>
            <Button kind="primary" needs="write" busy={busy === "replay"} onClick={() => void replay()}>
              Replay {reason === null ? "all" : "these"}
            </Button>
            <Button kind="quiet" needs="write" onClick={removeAll}>
              Delete {reason === null ? "all" : "these"}
            </Button>
          </span>
        </div>
        {test && <Tested result={test} />}
        {outcome && (
          <p class="note" role="status">
            {outcome}
          </p>
        )}
        <ErrorBox error={error} />
        {everRejected > total && reason === null && <p class="quiet">{everText(everRejected)}</p>}
        <ul class="reasons">
          {reasons.map((each: RejectedReason) => (
            <li key={keyOf(each)}>
              <button type="button" aria-pressed={reason === keyOf(each)} onClick={() => (open(null), setReason(reason === keyOf(each) ? null : keyOf(each)))}>
                <span class="figure nums">{count(each.count)}</span>
                <span>
                  <strong>{each.column ?? each.reason}</strong>
                  <span class="quiet">{clipped(shortened(each.message), EXCERPT)}</span>
                </span>
                <Time at={each.lastTime} relative />
              </button>
            </li>
          ))}
        </ul>
      </section>
      <section class="panel" aria-labelledby="records">
        <h2 id="records">Records, the newest first</h2>
        <ol class="tail">
          {records.map((record) => (
            <li key={record.id}>
              <button type="button" class="record" aria-expanded={opened === record.id} onClick={() => open(opened === record.id ? null : record.id)}>
                <Time at={record.time} />
                <span class="excerpt">
                  <strong>{record.column ?? record.reason}</strong> <span class="mono quiet">{clipped(record.excerpt, EXCERPT)}</span>
                </span>
                <span class="quiet nums">{bytes(record.size)}</span>
              </button>
              {opened === record.id && <Record sink={sink} id={record.id} onFix={fix} onGone={() => (open(null), found.reload())} />}
            </li>
          ))}
        </ol>
        {(group?.count ?? total) > records.length && (
          <p class="quiet">
            The newest {count(records.length)} of {count(group?.count ?? total)} are shown.
          </p>
        )}
      </section>
      {ask && <Confirm ask={ask} onClose={() => setAsk(null)} />}
    </>
  );
}

function Away({ nodes }: { nodes: RejectedList["nodes"] }) {
  return (
    <p class="note bad">
      {missingText(nodes, "are not shown")}. They are still kept there.
    </p>
  );
}
