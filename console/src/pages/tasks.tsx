import { useState } from "preact/hooks";
import { get, inBranch, sourcePath } from "../api/client";
import type { Page, Sink, Source, Task } from "../api/types";
import { count, span } from "../lib/format";
import { labelOf, objectOf } from "../lib/tasks";
import { load, sources } from "../state/data";
import { sinkHref, sourceHref } from "../state/router";
import { change, tasks } from "../state/tasks";
import { useInterval, useLoaded, useTitle } from "../ui/hooks";
import { Badge, Button, Empty, ErrorBox, Loading, Time } from "../ui/parts";
import { byWhom } from "./lifecycle";

const PAGE = 50;
const REFRESH_MS = 5_000;
const REFRESH_RUNNING_MS = 1_000;

function TaskRow({ task, label }: { task: Task; label: string }) {
  const { sourceId, sinkId } = objectOf(task);
  const source = sources.value?.find((each) => each.sourceId === sourceId);
  const href = source && (sinkId ? source.sinks.some((sink) => sink.sinkId === sinkId) && sinkHref(sourceId, sinkId) : sourceHref(sourceId));
  return (
    <li>
      <Badge kind={task.status === "error" ? "retrying" : task.isFinished ? "ok" : "waiting"}>
        {task.status === "error" ? "failed" : task.isFinished ? "done" : "running"}
      </Badge>
      <div>
        <p class="strong">{href ? <a href={href}>{label}</a> : label}</p>
        <p class={task.status === "error" ? "wrong" : "quiet"}>{task.error ?? task.result ?? "The task runs."}</p>
        {task.status === "error" && <p class="quiet mono small">{task.taskId}</p>}
      </div>
      <span class="quiet nums end">
        <Time at={task.createdAt} />
        {task.duration !== undefined && ` · ${span(task.duration)}`}
      </span>
    </li>
  );
}

/** Changes by all users, newest first. */
export function TaskList() {
  useTitle("Tasks");
  const [places, setPlaces] = useState<string[]>([]);
  const after = places.at(-1) ?? "";
  const path = `${inBranch("tasks")}?limit=${PAGE}${after && `&afterId=${encodeURIComponent(after)}`}`;
  const found = useLoaded(path, (signal) => get<{ page: Page; tasks: Task[] }>(path, signal));
  const isRunning = found.data?.tasks.some((task) => !task.isFinished) ?? false;
  useInterval(() => !after && found.reload(), isRunning ? REFRESH_RUNNING_MS : REFRESH_MS);
  const own = new Map(tasks.value.map(({ label, task }) => [task.taskId, label]));
  const page = found.data?.page;
  const isLast = !page?.lastId || places.length * PAGE + (found.data?.tasks.length ?? 0) >= page.totalCount;
  return (
    <>
      <h1>Tasks</h1>
      <p class="lead">
        Changes of sources and sinks, by whomever they were asked for. What succeeded is kept for an hour, what failed for two days.
      </p>
      {!found.data && !found.error && <Loading what="tasks" />}
      {!found.data && <ErrorBox error={found.error} onRetry={found.reload} />}
      {found.data && !found.data.tasks.length && (
        <Empty title={after ? "No older task" : "No change in the last hour"}>
          <p>What is created, changed or deleted appears here with its progress.</p>
        </Empty>
      )}
      {found.data && found.data.tasks.length > 0 && (
        <ul class="list panel flush">
          {found.data.tasks.map((task) => (
            <TaskRow key={task.taskId} task={task} label={own.get(task.taskId) ?? labelOf(task)} />
          ))}
        </ul>
      )}
      {page && (places.length > 0 || !isLast) && (
        <nav class="pages" aria-label="Pages of the list">
          <Button disabled={!places.length} onClick={() => setPlaces(places.slice(0, -1))}>
            Newer
          </Button>
          <span class="nums quiet">
            {count(places.length * PAGE + 1)} to {count(places.length * PAGE + (found.data?.tasks.length ?? 0))} of {count(page.totalCount)}
          </span>
          <Button disabled={isLast} onClick={() => setPlaces([...places, page.lastId])}>
            Older
          </Button>
        </nav>
      )}
    </>
  );
}

function Undelete({ label, path, onDone }: { label: string; path: string; onDone: () => void }) {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const act = async () => {
    setBusy(true);
    setError(null);
    try {
      await change(label, "PUT", path);
      await load();
      onDone();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return (
    <span class="actions">
      <ErrorBox error={error} />
      <Button needs="write" busy={isBusy} onClick={() => void act()}>
        Undelete
      </Button>
    </span>
  );
}

function DeletedSinks({ source }: { source: Source }) {
  const path = sourcePath(source.sourceId, "sinks");
  const found = useLoaded(`${path}/deleted`, (signal) => get<{ sinks: Sink[] }>(`${path}/deleted`, signal));
  if (found.error) return <ErrorBox error={found.error} onRetry={found.reload} />;
  if (!found.data) return <Loading what="deleted sinks" />;
  if (!found.data.sinks.length) return <p class="quiet">No sink of this source is deleted.</p>;
  return (
    <ul class="list">
      {found.data.sinks.map((sink) => (
        <li key={sink.sinkId}>
          <Badge kind="disabled">sink</Badge>
          <div>
            <p>{sink.name}</p>
            <p class="quiet">
              deleted by {byWhom(sink.deleted?.by ?? { type: "system" })}, <Time at={sink.deleted?.at} />
            </p>
          </div>
          <Undelete label={`Undelete the sink ${sink.name}`} path={`${path}/${encodeURIComponent(sink.sinkId)}/undelete`} onDone={found.reload} />
        </li>
      ))}
    </ul>
  );
}

/** Deleted sources and sinks that can be restored. */
export function Deleted() {
  useTitle("Deleted");
  const path = `${inBranch("sources")}/deleted`;
  const [after, setAfter] = useState("");
  const [chosen, setChosen] = useState("");
  const found = useLoaded(`${path}?${after}`, (signal) => get<{ page: Page; sources: Source[] }>(`${path}?limit=50&afterId=${encodeURIComponent(after)}`, signal));
  const present = sources.value ?? [];
  const source = present.find((each) => each.sourceId === chosen) ?? present[0];
  return (
    <>
      <h1>Deleted</h1>
      <p class="lead">What is deleted takes no records. It can be brought back with what was not imported yet.</p>
      <h2>Sources</h2>
      <ErrorBox error={found.error} onRetry={found.reload} />
      {!found.data && !found.error && <Loading what="deleted sources" />}
      {found.data && !found.data.sources.length && <p class="quiet">No source is deleted.</p>}
      {found.data && found.data.sources.length > 0 && (
        <ul class="list">
          {found.data.sources.map((each) => (
            <li key={each.sourceId}>
              <Badge kind="disabled">source</Badge>
              <div>
                <p>
                  {each.name} <span class="quiet mono">{each.sourceId}</span>
                </p>
                <p class="quiet">
                  deleted by {byWhom(each.deleted?.by ?? { type: "system" })}, <Time at={each.deleted?.at} />
                </p>
              </div>
              <Undelete label={`Undelete ${each.name}`} path={sourcePath(each.sourceId, "undelete")} onDone={found.reload} />
            </li>
          ))}
        </ul>
      )}
      {after && <Button onClick={() => setAfter("")}>First page</Button>}
      {found.data && found.data.page.totalCount > 50 && found.data.sources.length === 50 && (
        <Button onClick={() => setAfter(found.data!.page.lastId)}>Next page</Button>
      )}
      {source && (
        <>
          <h2>Sinks</h2>
          <p class="narrow">
            <label>
              <span class="sr">Sinks of </span>
              <select value={source.sourceId} onChange={(event) => setChosen(event.currentTarget.value)}>
                {present.map((each) => (
                  <option key={each.sourceId} value={each.sourceId}>
                    {each.name}
                  </option>
                ))}
              </select>
            </label>
          </p>
          <DeletedSinks key={source.sourceId} source={source} />
        </>
      )}
    </>
  );
}
