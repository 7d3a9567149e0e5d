import { useEffect, useState } from "preact/hooks";
import { get, inBranch, sourcePath } from "../api/client";
import type { Page, Sink, Source } from "../api/types";
import { span } from "../lib/format";
import { load, sources } from "../state/data";
import { sinkHref, sourceHref } from "../state/router";
import { change, refreshTasks, tasks } from "../state/tasks";
import { useLoaded, useTitle } from "../ui/hooks";
import { Badge, Button, Empty, ErrorBox, Loading, Time } from "../ui/parts";
import { byWhom } from "./lifecycle";

/** The changes that were asked for in this tab of the browser. */
export function TaskList() {
  useTitle("Tasks");
  useEffect(() => void refreshTasks(), []);
  const known = tasks.value;
  return (
    <>
      <h1>Tasks</h1>
      <p class="lead">Changes that you asked for in this tab. The API runs each as a task.</p>
      {!known.length && (
        <Empty title="No change yet">
          <p>What you create, change or delete appears here with its progress.</p>
        </Empty>
      )}
      <ul class="list">
        {known.map(({ label, task }) => {
          const { sourceId, sinkId } = (task.outputs ?? {}) as { sourceId?: string; sinkId?: string };
          return (
            <li key={task.taskId}>
              <Badge kind={task.status === "error" ? "retrying" : task.isFinished ? "ok" : "waiting"}>
                {task.isFinished ? task.status : "running"}
              </Badge>
              <div>
                <p>{sourceId && task.status === "success" ? <a href={sinkId ? sinkHref(sourceId, sinkId) : sourceHref(sourceId)}>{label}</a> : label}</p>
                <p class={task.status === "error" ? "wrong" : "quiet"}>{task.error ?? task.result ?? "The task runs."}</p>
                <p class="quiet mono small">{task.taskId}</p>
              </div>
              <span class="quiet nums">
                <Time at={task.createdAt} />
                {task.duration !== undefined && ` · ${span(task.duration)}`}
              </span>
            </li>
          );
        })}
      </ul>
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
      <Button busy={isBusy} onClick={() => void act()}>
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

/** Sources and sinks that can be brought back. */
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
      <ErrorBox error={found.error} onRetry={found.reload} />
      <h2>Sources</h2>
      {!found.data && !found.error && <Loading what="deleted sources" />}
      {found.data && !found.data.sources.length && <Empty title="No source is deleted" />}
      <ul class="list">
        {found.data?.sources.map((each) => (
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
      {found.data && found.data.page.totalCount > 50 && found.data.sources.length === 50 && (
        <Button onClick={() => setAfter(found.data!.page.lastId)}>Next page</Button>
      )}
      {source && (
        <>
          <h2>Sinks</h2>
          <p>
            <label>
              of{" "}
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
