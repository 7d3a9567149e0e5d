import { useEffect } from "preact/hooks";
import { ApiError, get } from "./api/client";
import { span } from "./lib/format";
import { behind as behindSeconds, failure, feed, load, sources, startData, stopData, takenAt, tick } from "./state/data";
import { go as goTo, route } from "./state/router";
import { token as currentToken } from "./state/rights";
import { connection } from "./state/connection";
import { clockAhead, endSession, now, session, signIn } from "./state/session";
import { Overview } from "./pages/overview";
import { SignIn } from "./pages/signin";
import { SourcePage } from "./pages/source";
import { SinkPage } from "./pages/sink";
import { FirstRow, NewSource } from "./pages/newsource";
import { NewSink } from "./pages/newsink";
import { Deleted, TaskList } from "./pages/tasks";
import { useLoaded, useTitle } from "./ui/hooks";
import { Button, Empty, ErrorBox, Loading, Menu } from "./ui/parts";

const BEHIND_MS = 5_000;

/** Whether the sources aren't shown because the token lacks a right. */
const isRefused = (): boolean => failure.value instanceof ApiError && failure.value.status === 403;

function FeedState() {
  tick.value;
  const state = feed.value;
  const behind = Math.max(now() - takenAt.value, behindSeconds.value * 1000);
  const texts = {
    connecting: ["Connecting", "The console requests live data."],
    live: ["Live", "Counters arrive every second."],
    polling: ["Every 3 s", "This API has no live stream: the console requests statistics every few seconds."],
    lost: ["Reconnecting", "The live data ended; the console reconnects."],
  } as const;
  const [text, title] = isRefused() ? ["No access", "The token lacks the right to read sources."] : texts[state];
  const isBehind = state === "live" && takenAt.value > 0 && behind > BEHIND_MS;
  return (
    <span class="feed" data-state={isBehind ? "behind" : state} title={title}>
      {isBehind ? `${Math.round(behind / 1000)} s behind` : text}
    </span>
  );
}

function Banners() {
  const ahead = clockAhead.value;
  return (
    <div class="banners" role="status" aria-live="polite">
      {connection.value === "lost" && (
        <p class="banner bad">
          The API can't be reached. The page shows the last known state. The console tries again every second.
        </p>
      )}
      {Math.abs(ahead) > 60_000 && (
        <p class="banner">
          The clock of this computer is {span(Math.abs(ahead))} {ahead > 0 ? "ahead of" : "behind"} the API's. Ages are
          counted by the API's clock.
        </p>
      )}
    </div>
  );
}

interface Branch {
  branchId: number;
  name: string;
  isDefault: boolean;
}

/** Branches of the project; empty if the API has no list, or the token may not read it. */
function useBranches(token: string | undefined): Branch[] {
  return useLoaded(`branches ${token}`, async (signal) => (await get<{ branches: Branch[] }>("/v1/branches", signal)).branches).data ?? [];
}

function SessionMenu() {
  const current = session.value;
  const known = currentToken.value;
  const branches = useBranches(current?.token);
  const idOf = (each: Branch) => (each.isDefault ? "default" : String(each.branchId));
  const here = branches.find((each) => idOf(each) === current?.branch || String(each.branchId) === current?.branch);
  const others = current ? branches.filter((each) => each !== here) : [];
  return (
    <Menu
      about={known?.name ? `“${known.name}”: ${known.rights.join(", ")}` : undefined}
      label={current?.branch === "default" ? "Session" : `Branch ${here?.name ?? current?.branch}`}
      items={[
        ...others.map((each) => ({
          label: `Switch to ${each.name}`,
          act: () => {
            goTo("#/");
            signIn({ token: current!.token, branch: idOf(each) });
          },
        })),
        { label: "Sign out", act: () => endSession() },
      ]}
    />
  );
}

function Header() {
  const { page } = route.value;
  const at = (name: string) => (page === name ? "page" : undefined);
  return (
    <header class="top">
      <a class="brand" href="#/" aria-label="Stream, overview">
        <svg viewBox="0 0 32 32" width="24" height="24" aria-hidden="true">
          <path d="M5 10c5-5 8 5 13 0s9 0 9 0M5 17c5-5 8 5 13 0s9 0 9 0M5 24c5-5 8 5 13 0s9 0 9 0" />
        </svg>
        Stream
      </a>
      <nav aria-label="Console">
        <a href="#/" aria-current={at("overview")}>
          Sources
        </a>
        <a href="#/tasks" aria-current={at("tasks")}>
          Tasks
        </a>
        <a href="#/deleted" aria-current={at("deleted")}>
          Deleted
        </a>
        <a href="../v1/documentation/">API</a>
      </nav>
      <FeedState />
      <SessionMenu />
    </header>
  );
}

function Content() {
  const found = route.value;
  switch (found.page) {
    case "overview":
      return <Overview />;
    case "newSource":
      return <NewSource />;
    case "firstRow":
      return <FirstRow key={found.sourceId} sourceId={found.sourceId} sinkId={found.sinkId} />;
    case "tasks":
      return <TaskList />;
    case "deleted":
      return <Deleted />;
    case "source":
      return <SourcePage key={found.sourceId} sourceId={found.sourceId} tab={found.tab} />;
    case "newSink":
      return <NewSink key={found.sourceId} sourceId={found.sourceId} />;
    case "sink":
      return <SinkPage key={`${found.sourceId}/${found.sinkId}`} sourceId={found.sourceId} sinkId={found.sinkId} tab={found.tab} />;
    default:
      return (
        <Empty title="There is no such page" isPage>
          <p>
            Go to <a href="#/">the sources</a>.
          </p>
        </Empty>
      );
  }
}

/** What is shown as long as no source could be read. */
function Unavailable() {
  useTitle("Not available");
  return (
    <>
      <h1>The sources can't be read</h1>
      <ErrorBox error={failure.value} onRetry={() => void load().catch(() => undefined)} />
      {!isRefused() && <p class="quiet">The console needs them for each of its pages, and asks again by itself.</p>}
    </>
  );
}

export function App() {
  const current = session.value;
  useEffect(() => {
    startData();
    return stopData;
  }, [current]);
  useEffect(() => {
    const main = document.getElementById("main");
    scrollTo(0, 0);
    // After a link is followed with the keyboard, the focus moves to the new page.
    if (document.activeElement && document.activeElement !== document.body) main?.focus({ preventScroll: true });
  }, [JSON.stringify({ ...route.value, tab: "" })]);
  if (!current)
    return (
      <>
        <Banners />
        <SignIn />
      </>
    );
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        Skip to the content
      </a>
      <Header />
      <Banners />
      <main id="main" tabIndex={-1}>
        {(sources.value === null || currentToken.value === null) && failure.value === null ? (
          <Loading what="sources" />
        ) : sources.value === null || currentToken.value === null ? (
          <>
            <Unavailable />
            {isRefused() && (
              <>
                <p>
                  The console needs a token with the right <code>read</code>.
                </p>
                <div class="actions start">
                  <Button onClick={() => endSession()}>Sign in with another token</Button>
                </div>
              </>
            )}
          </>
        ) : (
          <Content />
        )}
      </main>
    </>
  );
}
