import { useEffect, useMemo, useState } from "preact/hooks";
import { bytes, count } from "../lib/format";
import { may } from "../state/rights";
import { KEPT, type Shown, Tail } from "../state/tail";
import { Button, clipped, Code, Empty, NoMatch, NotAllowed, pretty, Time } from "../ui/parts";

const EXCERPT = 300;
const SHOWN_CHARS = 100_000;

function matches(record: Shown, wanted: string): boolean {
  return !wanted || record.body.toLowerCase().includes(wanted) || record.ip.includes(wanted);
}

function Record({ record, isOpen, onToggle }: { record: Shown; isOpen: boolean; onToggle: () => void }) {
  return (
    <li>
      <button type="button" class="record" aria-expanded={isOpen} onClick={onToggle}>
        <Time at={record.timestamp} />
        <span class="mono excerpt">{record.isBase64 ? "(binary)" : clipped(record.body.slice(0, EXCERPT + 1), EXCERPT)}</span>
        <span class="quiet nums">{bytes(record.bodyBytes)}</span>
      </button>
      {isOpen && (
        <div class="detail">
          {record.isCut && <p class="note">The body has {bytes(record.bodyBytes)}; its beginning is shown.</p>}
          <Code text={clipped(pretty(record.body), SHOWN_CHARS)} label="Body of the record" />
          <table class="pairs">
            <caption class="sr">Headers of the record</caption>
            <tbody>
              <tr>
                <th scope="row">from</th>
                <td class="mono">{record.ip}</td>
              </tr>
              {Object.entries(record.headers).map(([name, value]) => (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  <td class="mono">{clipped(value, EXCERPT)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </li>
  );
}

/** The newest records of a source, as they arrive, if the token may see records. */
export function TailView({ sourceId }: { sourceId: string }) {
  return may("tail") ? <RecordsOf sourceId={sourceId} /> : <NotAllowed title="Records are not shown" right="tail" />;
}

function RecordsOf({ sourceId }: { sourceId: string }) {
  const tail = useMemo(() => new Tail(sourceId), [sourceId]);
  useEffect(() => () => tail.stop(), [tail]);
  const [filter, setFilter] = useState("");
  const [opened, setOpened] = useState<number | null>(null);
  const wanted = filter.trim().toLowerCase();
  const records = tail.records.value;
  const matching = useMemo(() => records.filter((each) => matches(each, wanted)), [records, wanted]);
  const isPaused = tail.isPaused.value;
  const isLost = !isPaused && tail.state.value === "lost";
  const open = (serial: number | null) => {
    setOpened(serial);
    if (serial === null) tail.release();
    else tail.hold();
  };
  const texts = { connecting: "Connecting", live: "Live", ended: "Ended", lost: "Reconnecting" };
  // A tail that was refused needs no filter.
  if (tail.state.value === "ended" && !records.length)
    return (
      <p class="note bad" role="alert">
        {tail.problem.value}
      </p>
    );
  return (
    <section aria-label="Live tail">
      <div class="filter">
        <input
          type="search"
          aria-label="Filter records"
          placeholder="Filter by text or address"
          value={filter}
          onInput={(event) => setFilter(event.currentTarget.value)}
        />
        <Button aria-pressed={isPaused} onClick={() => tail.pause(!isPaused)}>
          {isPaused ? "Go on" : "Pause"}
        </Button>
        <Button kind="quiet" onClick={() => (tail.clear(), open(null))}>
          Clear
        </Button>
        <span class="feed" data-state={isPaused ? "paused" : tail.state.value}>
          {isPaused ? "Paused" : texts[tail.state.value]}
        </span>
      </div>
      {tail.problem.value && (
        <p class="note bad" role="alert">
          {tail.problem.value}
        </p>
      )}
      <p class="quiet nums">
        {wanted ? `${count(matching.length)} of ${count(records.length)} shown records match. ` : ""}
        {tail.left.value > 0 ? `${count(tail.left.value)} records were left out: the tail shows at most 10 a second. ` : ""}
        The newest {KEPT} records are kept.
      </p>
      {matching.length ? (
        <ol class="tail" aria-label="Records, the newest first">
          {matching.map((record) => (
            <Record
              key={record.serial}
              record={record}
              isOpen={opened === record.serial}
              onToggle={() => open(opened === record.serial ? null : record.serial)}
            />
          ))}
        </ol>
      ) : wanted && records.length ? (
        <NoMatch title={`No record matches “${filter}”`} onClear={() => setFilter("")} />
      ) : (
        <Empty title={isLost ? "Records can't be read" : "Waiting for records"}>
          <p>{isLost ? "The API doesn't send them. The console reconnects every few seconds." : "Records that arrive from now on appear here. The tail stores nothing."}</p>
        </Empty>
      )}
    </section>
  );
}

