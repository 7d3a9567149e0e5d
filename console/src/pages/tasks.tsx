import { useState } from "preact/hooks";
import { get, inBranch, sourcePath } from "../api/client";
import type { Page, Sink, Source, Task } from "../api/types";
import { count, span } from "../lib/format";
import { labelOf, objectOf } from "../lib/tasks";
import { load, sources } from "../state/data";
import { sinkHref, sourceHref } from "../state/router";
import { change, tasks } from "../state/tasks";
import { useInterval, useLoaded, useTitle } from "../ui/hooks";
import { Badge, Button, Empty, ErrorBox, Field, Loading, Pager, Time } from "../ui/parts";
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
        <p class={task.status === "error" ? "wrong" : "quiet"}>{task.error ?? task.result ?? "The task is running."}</p>
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
        Changes of sources and sinks by all users. Successful tasks are kept for an hour, failed ones for two days.
      </p>
      {!found.data && !found.error && <Loading what="tasks" />}
      {!found.data && <ErrorBox error={found.error} onRetry={found.reload} />}
      {found.data && !found.data.tasks.length && (
        <Empty title={after ? "No older task" : "No change in the last hour"}>
          <p>Each change of a source or sink appears here with its progress.</p>
        </Empty>
      )}
      {found.data && found.data.tasks.length > 0 && (
        <ul class="list panel">
          {found.data.tasks.map((task) => (
            <TaskRow key={task.taskId} task={task} label={own.get(task.taskId) ?? labelOf(task)} />
          ))}
        </ul>
      )}
      {page && (places.length > 0 || !isLast) && (
        <Pager
          labels={["Newer", "Older"]}
          back={places.length ? () => setPlaces(places.slice(0, -1)) : undefined}
          next={isLast ? undefined : () => setPlaces([...places, page.lastId])}
        >
          {count(places.length * PAGE + 1)} to {count(places.length * PAGE + (found.data?.tasks.length ?? 0))} of {count(page.totalCount)}
        </Pager>
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
    <>
      <span class="actions">
        <Button needs="write" busy={isBusy} onClick={() => void act()}>
          Undelete
        </Button>
      </span>
      {Boolean(error) && (
        <div class="whole">
          <ErrorBox error={error} />
        </div>
      )}
    </>
  );
}

function DeletedSinks({ source }: { source: Source }) {
  const path = sourcePath(source.sourceId, "sinks");
  const found = useLoaded(`${path}/deleted`, (signal) => get<{ sinks: Sink[] }>(`${path}/deleted`, signal));
  if (found.error) return <ErrorBox error={found.error} onRetry={found.reload} />;
  if (!found.data) return <Loading what="deleted sinks" />;
  if (!found.data.sinks.length) return <p class="quiet">No sink of this source is deleted.</p>;
  return (
    <ul class="list panel">
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
  const [places, setPlaces] = useState<string[]>([]);
  const after = places.at(-1) ?? "";
  const [chosen, setChosen] = useState("");
  const found = useLoaded(`${path}?${after}`, (signal) => get<{ page: Page; sources: Source[] }>(`${path}?limit=${PAGE}&afterId=${encodeURIComponent(after)}`, signal));
  const page = found.data?.page;
  const shown = found.data?.sources.length ?? 0;
  const present = sources.value ?? [];
  const source = present.find((each) => each.sourceId === chosen) ?? present[0];
  return (
    <>
      <h1>Deleted</h1>
      <p class="lead">Deleted sources accept no records. You can undelete them, together with rows that aren't imported yet.</p>
      <section class="stack" aria-labelledby="sources">
      <h2 id="sources">Sources</h2>
      <ErrorBox error={found.error} onRetry={found.reload} />
      {!found.data && !found.error && <Loading what="deleted sources" />}
      {found.data && !found.data.sources.length && <p class="quiet">{after ? "No other source is deleted." : "No source is deleted."}</p>}
      {found.data && found.data.sources.length > 0 && (
        <ul class="list panel">
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
      {page && (places.length > 0 || page.totalCount > PAGE) && (
        <Pager
          back={places.length ? () => setPlaces(places.slice(0, -1)) : undefined}
          next={places.length * PAGE + shown < page.totalCount && page.lastId ? () => setPlaces([...places, page.lastId]) : undefined}
        >
          {count(places.length * PAGE + Math.min(1, shown))} to {count(places.length * PAGE + shown)} of {count(page.totalCount)}
        </Pager>
      )}
      </section>
      {source && (
        <section class="stack" aria-labelledby="sinks">
          <h2 id="sinks">Sinks</h2>
          <div class="narrow">
            <Field label="Of the source">
              {(attributes) => (
                <select {...attributes} value={source.sourceId} onChange={(event) => setChosen(event.currentTarget.value)}>
                  {present.map((each) => (
                    <option key={each.sourceId} value={each.sourceId}>
                      {each.name} ({each.sourceId})
                    </option>
                  ))}
                </select>
              )}
            </Field>
          </div>
          <DeletedSinks key={source.sourceId} source={source} />
        </section>
      )}
    </>
  );
}
