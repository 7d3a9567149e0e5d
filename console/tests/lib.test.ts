import { afterEach, describe, expect, test, vi } from "vitest";
import { request, Unreachable } from "../src/api/client";
import { filesOf, triggerOf } from "../src/api/pipeline";
import { readEvents, SseParser } from "../src/api/sse";
import { cleaned, columnName, columnOf, columnsFor, dataTypeOf } from "../src/lib/columns";
import { diff, nearChanges } from "../src/lib/diff";
import { followed, isEdited, isOvertaken } from "../src/lib/drafts";
import { bytes, choicesOf, durationMs, rate, rulesText, shortSpan, sizeBytes, span } from "../src/lib/format";
import { fromStatistics, inStage, limitsOf, nearest } from "../src/lib/pipeline";
import { everText, missingText, replayText } from "../src/lib/rejected";
import { Repeats } from "../src/lib/repeats";
import { RateSeries, summed } from "../src/lib/series";
import { idOf, slug } from "../src/lib/slug";
import { shellQuoted, snippets } from "../src/lib/snippets";
import { firstPlace, placeText, tableOf, type Targets, targetsOf, typesOf } from "../src/lib/places";
import { answered, answers, connection, doubt } from "../src/state/connection";
import { load, sources } from "../src/state/data";
import { draftKey, draftOf, keepDraft, namesake } from "../src/state/drafts";
import { keptOf, learnKept } from "../src/state/kept";
import { change } from "../src/state/tasks";
import { lack, learnRights, may, token } from "../src/state/rights";
import { endSession, session, signIn } from "../src/state/session";
import { Tail } from "../src/state/tail";
import { labelOf, objectOf } from "../src/lib/tasks";
import { parseRoute, sinkHref, sourceHref } from "../src/state/router";

describe("rates", () => {
  test("are differences of the counter, spread over the seconds that passed", () => {
    const series = new RateSeries(5);
    series.push(1_000, 100);
    series.push(2_000, 110);
    series.push(4_000, 150);
    expect(series.newest(4)).toEqual([0, 10, 20, 20]);
    expect(series.known).toBe(3);
    expect(series.rate(2)).toBe(20);
  });
  test("never fall below zero when a counter is reset, and ignore a time that doesn't go on", () => {
    const series = new RateSeries(5);
    series.push(1_000, 100);
    series.push(2_000, 3);
    series.push(2_500, 900);
    series.push(1_000, 900);
    expect(series.newest(1)).toEqual([0]);
  });
  test("of a long gap fill the memory once", () => {
    const series = new RateSeries(3);
    series.push(0, 0);
    series.push(1_000_000_000, 1_000_000);
    expect(series.newest(3)).toEqual([1, 1, 1]);
    expect(series.known).toBe(3);
  });
  test("of several counters are added", () => expect(summed([[1, 2], [3]], 2)).toEqual([4, 2]));
});

describe("server-sent events", () => {
  test("are whole however they are cut", () => {
    const text = "id: 7\nevent: counters\ndata: {\"a\":\ndata: 1}\n\n: nothing new\n\nevent: file\r\ndata:x\r\n\r\n";
    for (let size = 1; size < text.length; size++) {
      const parser = new SseParser();
      const found = [];
      for (let at = 0; at < text.length; at += size) found.push(...parser.push(text.slice(at, at + size)));
      expect(found).toEqual([
        { event: "counters", data: '{"a":\n1}', id: "7" },
        { event: "file", data: "x", id: "7" },
      ]);
    }
  });
});

describe("columns from a sample", () => {
  test("have a path, a name that tables take, and a type", () => {
    const sample = { user: { name: "Ada", id: 7 }, "a b": 1.5, at: "2024-01-31T10:00:00Z", tags: ["x"], none: null, "with.dot": 1 };
    expect(columnsFor(sample, [], true)).toEqual([
      { type: "path", name: "user_name", path: "user.name", rawString: true, dataType: "string" },
      { type: "path", name: "user_id", path: "user.id", rawString: true, dataType: "integer" },
      { type: "path", name: "a_b", path: "a b", rawString: true, dataType: "double" },
      { type: "path", name: "at", path: "at", rawString: true, dataType: "timestamp" },
      { type: "path", name: "tags", path: "tags", dataType: "json" },
      { type: "path", name: "none", path: "none", rawString: true, dataType: "string", nullable: true },
    ]);
  });
  test("are only those that are missing, and at most as many as a table takes", () => {
    const many = Object.fromEntries(Array.from({ length: 150 }, (_, index) => [`m${index}`, index]));
    const first = columnsFor(many, [], false);
    expect(first).toHaveLength(100);
    expect(columnsFor({ m0: 1, other: 2 }, first.slice(0, 10), false).map((each) => each.name)).toEqual(["other"]);
    for (const value of [null, 1, "text", [1]]) expect(columnsFor(value, [], false)).toEqual([]);
  });
  test("have names of their own, whatever the case", () => {
    const taken = new Set(["a"]);
    expect([columnName("A", taken), columnName("a!", taken), columnName("日本", taken)]).toEqual(["A_2", "a_3", "column"]);
  });
  test("have the type of the value", () => {
    const values = [true, 1, 2 ** 60, "2024-01-31", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", {}, null];
    expect(values.map(dataTypeOf)).toEqual(["boolean", "integer", "double", "date", "uuid", "json", "string"]);
  });
  test("lose what their type doesn't have", () => {
    expect(cleaned({ type: "body", name: " b ", path: "x", rawString: true, dataType: "json" }, false)).toEqual({ type: "body", name: "b" });
    expect(cleaned({ type: "path", name: "p", defaultValue: "" }, true)).toEqual({ type: "path", name: "p", path: "", defaultValue: "", rawString: false });
  });
  test("are found by the parameter of an error", () => {
    expect([columnOf("body.table.mapping.columns[12].path"), columnOf("body.name"), columnOf(undefined)]).toEqual([12, null, null]);
  });
});

describe("the pipeline", () => {
  const limits = { count: 100, size: 1_000, interval: 60_000 };
  test("names the trigger that comes next", () => {
    expect(nearest(limits, 50, 100, 6_000)).toMatchObject({ kind: "records", progress: 0.5 });
    expect(nearest(limits, 1, 5_000, 0)).toMatchObject({ kind: "bytes", progress: 1 });
    expect(nearest(limits, 0, 0, 999_000)).toMatchObject({ progress: 0 });
    expect(nearest({ count: null, size: null, interval: null }, 1, 1, 1)).toBeNull();
  });
  test("knows its limits from settings, in their units", () => {
    const setting = (name: string, value: unknown) => ({ key: `storage.level.target.import.trigger.${name}`, value }) as never;
    expect(limitsOf([setting("count", 5), setting("size", "50MB"), setting("interval", "1m30s")])).toEqual({ count: 5, size: 52_428_800, interval: 90_000 });
  });
  test("is made of files with slices, or of statistics alone", () => {
    const files = filesOf({
      files: [{ fileId: "b", state: "writing", openedAt: "2024-01-01T00:00:02Z", conditions: [{ name: "time", value: 1, limit: 2, progress: 0.5 }], slices: [{ sliceId: "s", state: "uploading", openedAt: "", retryAttempt: 2, retryReason: "no", statistics: { recordsCount: 3, compressedSize: 4 } }] }],
      imports: [{ fileId: "a", openedAt: "2024-01-01T00:00:01Z", importedAt: "2024-01-01T00:00:02Z" }],
    });
    expect(files[0]!.slices[0]).toMatchObject({ records: 3, retry: { attempt: 2, reason: "no" } });
    expect(files[0]!.trigger).toEqual({ kind: "time", progress: 0.5, text: "imported 2 s after it was opened" });
    expect(inStage(files, "imported", 1).map((file) => file.fileId)).toEqual(["a"]);
    const plain = fromStatistics([{ state: "writing", openedAt: "2024-01-01T00:00:00Z" }], limits, Date.parse("2024-01-01T00:00:30Z"));
    expect(plain[0]).toMatchObject({ records: 0, slices: [], retry: null });
  });
  test("takes a condition that it doesn't know", () => {
    expect(triggerOf([{ name: "moon", value: 1, limit: 1, progress: 7 }], "imported")).toEqual({ kind: "moon", progress: 1, text: "imported moon" });
  });
});

describe("differences", () => {
  test("are the lines that were added and removed", () => {
    expect(diff("a\nb\nc", "a\nc\nd").map((line) => `${line.kind[0]}${line.text}`)).toEqual(["sa", "rb", "sc", "ad"]);
  });
  test("from nothing are all lines", () => {
    expect(diff("", "a").map((line) => line.kind)).toEqual(["added"]);
    expect(diff("", "")).toEqual([]);
  });
  test("together make both texts", () => {
    const random = (seed: number) => Array.from({ length: 12 }, (_, index) => "abc"[(seed * 7 + index * index * seed) % 3]!);
    for (let seed = 1; seed < 40; seed++) {
      const [before, after] = [random(seed), random(seed + 5)];
      const lines = diff(before.join("\n"), after.join("\n"));
      const text = (left: string) => lines.filter((line) => line.kind !== left).map((line) => line.text);
      expect(text("added")).toEqual(before);
      expect(text("removed")).toEqual(after);
    }
  });
});

test("addresses name pages, whatever the ids hold", () => {
  expect(parseRoute("")).toEqual({ page: "overview" });
  expect(parseRoute(sourceHref("a/b <i>"))).toEqual({ page: "source", sourceId: "a/b <i>", tab: "" });
  expect(parseRoute(sinkHref("new", "tasks", "mapping"))).toEqual({ page: "sink", sourceId: "new", sinkId: "tasks", tab: "mapping" });
  expect(parseRoute("#/sources/%zz/tail")).toEqual({ page: "source", sourceId: "%zz", tab: "tail" });
  for (const hash of ["#/x", "#/sources", "#/sources/a/sinks", "#/new/x"]) expect(parseRoute(hash)).toEqual({ page: "missing" });
});

test("numbers are short", () => {
  expect([rate(0), rate(1.26), rate(12_345.6)]).toEqual(["0", "1.3", "12,346"]);
  expect([bytes(0), bytes(1_023), bytes(1_234), bytes(52_428_800), bytes(123_456_789)]).toEqual(["0 B", "1023 B", "1.2 KB", "50 MB", "118 MB"]);
  expect([span(12), span(1_500), span(90_000), shortSpan(7_300_000)]).toEqual(["12 ms", "1.5 s", "1 min 30 s", "2 h"]);
  expect([durationMs("1h0m0s"), durationMs("200ms"), durationMs("x"), sizeBytes("1KB"), sizeBytes("much")]).toEqual([3_600_000, 200, null, 1024, null]);
});

test("programs quote what they are given", () => {
  expect(shellQuoted("it's")).toBe(`'it'\\''s'`);
  const source = { http: { url: "http://in/stream/1/a/secret" } } as never;
  const [curl] = snippets(source, { name: "it's $HOME" });
  expect(curl!.text).toContain(`-d '{"name":"it'\\''s $HOME"}'`);
});

describe("the page of a first row", () => {
  test("has an address of its own, which can be loaded again", () => {
    expect(parseRoute("#/new/my-source/events")).toEqual({ page: "firstRow", sourceId: "my-source", sinkId: "events" });
    expect(parseRoute("#/new")).toEqual({ page: "newSource" });
    expect(parseRoute("#/new/my-source")).toEqual({ page: "missing" });
  });
});

describe("tasks", () => {
  const task = (type: string, object: string) =>
    ({ type, taskId: `${type}/456/${object}/2026-01-02T03:04:05.000Z_abcde` }) as Parameters<typeof labelOf>[0];
  test("are named by what they change", () => {
    expect(labelOf(task("api.create.source", "shop"))).toBe("Create source shop");
    expect(labelOf(task("api.update.sinkSettings", "shop/orders"))).toBe("Update sink settings of shop/orders");
    expect(labelOf(task("api.replay.rejectedRecords", "shop/orders"))).toBe("Replay rejected records of shop/orders");
  });
  test("say in their id what they are about", () => {
    expect(objectOf(task("api.create.sink", "shop/orders"))).toEqual({ sourceId: "shop", sinkId: "orders" });
    expect(objectOf(task("api.create.source", "ße"))).toEqual({ sourceId: "ße", sinkId: "" });
  });
});

describe("rights of a token", () => {
  test("that it lacks are named, and none is lacking before they are known to be there", () => {
    token.value = null;
    expect(may("read")).toBe(false);
    token.value = { name: "ci", rights: ["read", "write"] };
    expect(may("write")).toBe(true);
    expect(lack("write")).toBeNull();
    expect(lack(undefined)).toBeNull();
    expect(lack("tail")).toBe("Your token lacks the right “tail”.");
  });
  test("aren't taken over by a session that began while they were asked for", async () => {
    const asked: ((answer: Response) => void)[] = [];
    vi.stubGlobal("fetch", () => new Promise<Response>((resolve) => asked.push(resolve)));
    const answer = (rights: string[]) => asked.shift()!(new Response(JSON.stringify({ name: "one", rights })));
    token.value = null;
    session.value = { token: "of-an-admin", branch: "default" };
    const former = learnRights();
    session.value = { token: "of-a-reader", branch: "default" };
    answer(["read", "write", "tail", "admin"]);
    await former;
    expect(token.value).toBeNull();
    const later = learnRights();
    answer(["read"]);
    await later;
    expect(may("read") && !may("write")).toBe(true);
  });
  test("and sources aren't those of a former session", async () => {
    const given: ((answer: Response) => void)[] = [];
    vi.stubGlobal("fetch", () => new Promise<Response>((resolve) => given.push(resolve)));
    session.value = { token: "of-one-project", branch: "default" };
    const loading = load();
    session.value = { token: "of-another-project", branch: "default" };
    const answer = { page: { lastId: "" }, sources: [{ sourceId: "one", sinks: [] }], name: "one", rights: ["read"] };
    for (const give of given) give(new Response(JSON.stringify(answer)));
    await loading;
    expect([sources.value, token.value]).toEqual([null, null]);
  });
  test("are all assumed if an older API doesn't tell them", async () => {
    vi.stubGlobal("fetch", () => Promise.resolve(new Response("{}", { status: 405 })));
    token.value = null;
    await learnRights();
    expect(may("admin")).toBe(true);
  });
  afterEach(() => {
    vi.unstubAllGlobals();
    session.value = null;
    token.value = null;
  });
});

describe("places of tables", () => {
  const keboola: Targets = { connections: [], tableTypes: ["keboola"] };
  const place = { ...firstPlace("my-shop", keboola), connection: "here" };
  test("name what each kind of table needs, and nothing else", () => {
    const named = (type: string) => {
      const { mapping, ...rest } = tableOf({ ...place, type }, [], type !== "keboola");
      expect(mapping).toEqual({ columns: [] });
      return rest;
    };
    expect(named("keboola")).toEqual({ type: "keboola", tableId: "in.c-my-shop.events" });
    expect(named("postgres")).toEqual({ type: "postgres", connection: "here", table: "my_shop" });
    expect(named("iceberg")).toEqual({ type: "iceberg", connection: "here", namespace: "stream", table: "my_shop" });
    expect(named("parquet")).toEqual({ type: "parquet", connection: "here", path: "my-shop" });
  });
  test("are first where a declared connection answers, then in another kind of table", () => {
    const archive = { name: "archive", type: "parquet", isAvailable: false };
    const warehouse = { name: "warehouse", type: "postgres", isAvailable: null };
    const spare = { ...archive, name: "spare", isAvailable: true };
    const chosen = (connections: Targets["connections"], tableTypes: string[]) => {
      const { type, connection } = firstPlace("shop", { connections, tableTypes });
      return [type, connection];
    };
    expect(chosen([archive, warehouse], ["keboola", "parquet", "postgres"])).toEqual(["postgres", "warehouse"]);
    expect(chosen([archive, spare], ["parquet"])).toEqual(["parquet", "spare"]);
    expect(chosen([archive], ["parquet"])).toEqual(["parquet", "archive"]);
    expect(chosen([], ["keboola"])).toEqual(["keboola", ""]);
    expect(chosen([], [])).toEqual(["", ""]);
    expect(typesOf({ connections: [warehouse], tableTypes: ["keboola", "postgres"] })).toEqual(["postgres", "keboola"]);
    expect(typesOf({ connections: [warehouse], tableTypes: ["keboola"] })).toEqual(["keboola"]);
  });
  test("are guessed from the connections if an older API doesn't list types of tables", () => {
    const warehouse = { name: "warehouse", type: "postgres", isAvailable: true };
    expect(typesOf(targetsOf({ connections: [warehouse] }))).toEqual(["postgres", "keboola"]);
    expect(targetsOf({ connections: [warehouse], tableTypes: ["postgres"] }).tableTypes).toEqual(["postgres"]);
  });
  test("are one line for people", () => {
    const mapping = { columns: [] };
    expect(placeText({ type: "keboola", tableId: "in.c-a.b", mapping })).toBe("in.c-a.b");
    expect(placeText({ type: "postgres", connection: "w", schema: "shop", table: "orders", mapping })).toBe("w.shop.orders");
    expect(placeText({ type: "iceberg", connection: "lake", namespace: "shop", table: "orders", mapping })).toBe("lake.shop.orders");
    expect(placeText({ type: "parquet", connection: "archive", path: "shop/orders", mapping })).toBe("archive/shop/orders");
  });
});

describe("what lives as long as the page", () => {
  test("a series without rates has no memory, and is whole when the first rate comes", () => {
    const series = new RateSeries(900);
    for (let second = 1; second <= 1000; second++) series.push(second * 1000, 0);
    expect(series.newest(3)).toEqual([0, 0, 0]);
    expect(series.known).toBe(900);
    series.push(1_001_000, 7);
    expect(series.newest(3)).toEqual([0, 0, 7]);
    expect(series.rate(1)).toBe(7);
  });
  test("the connection of a stream ends when an event can't be taken", async () => {
    let isCancelled = false;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(new TextEncoder().encode("data: 1\n\ndata: 2\n\n")),
      cancel: () => void (isCancelled = true),
    });
    const take = () => {
      throw new Error("not understood");
    };
    await expect(readEvents(new Response(body), take)).rejects.toThrow("not understood");
    expect(isCancelled).toBe(true);
  });
});

test("rules of a setting are a range", () => {
  expect(rulesText("required,min=1,max=10000000")).toBe("1 to 10,000,000");
  expect(rulesText("required,minDuration=1s,maxDuration=30m")).toBe("1s to 30m");
  expect(rulesText("maxBytes=50MB")).toBe("at most 50MB");
  expect(rulesText("required,oneof=disk cache")).toBe("one of disk, cache");
  expect(rulesText("networks")).toBe("IP addresses or networks");
  expect(rulesText("required,minDuration=1h,gtefield=other")).toBe("at least 1h, not less than other");
  expect([choicesOf("required,oneof=disk cache"), choicesOf("required"), choicesOf(undefined)]).toEqual([["disk", "cache"], [], []]);
  expect(rulesText(undefined)).toBe("");
});

describe("ids made from names", () => {
  // The same names as in tests/definition/test_slug.py.
  test.each([
    ["My Source", "my-source"],
    ["CamelCase", "camel-case"],
    ["!!!!~~~~weird|||id##", "weird-id"],
    ["__abc_def_xyz___", "abc-def-xyz"],
    ["a B cd-eF   x_y___z__", "a-b-cd-e-f-x-y-z"],
    ["ABc", "abc"],
    ["Příliš žluťoučký", "prilis-zlutoucky"],
    ["!!!", ""],
  ])("of %s", (name, id) => expect(slug(name)).toBe(id));
  test("are as long as the API's", () => {
    expect(idOf("Ab".repeat(20))).toBe("ab-".repeat(16).slice(0, -1));
    expect(idOf("日本")).toBe("");
  });
  test("are plain in names of tables", () => {
    const place = firstPlace(idOf("Großhandel IoT"), { connections: [], tableTypes: ["keboola"] });
    expect([place.tableId, place.table, place.path]).toEqual(["in.c-gro-handel-io-t.events", "gro_handel_io_t", "gro-handel-io-t"]);
  });
});

test("a difference shows what is near a change", () => {
  const before = Array.from({ length: 20 }, (_, number) => `line ${number}`);
  const after = before.map((line, number) => (number === 10 ? "another" : line));
  const shown = nearChanges(diff(before.join("\n"), after.join("\n"))).map(({ kind, text }) => `${kind} ${text}`);
  expect(shown).toEqual([
    "left … 7 lines are the same",
    ...["same line 7", "same line 8", "same line 9", "removed line 10", "added another", "same line 11", "same line 12", "same line 13"],
    "left … 6 lines are the same",
  ]);
  expect(nearChanges(diff("a\nb", "a\nc")).map((line) => line.kind)).toEqual(["same", "removed", "added"]);
  expect(nearChanges(diff("a\nb\nc\nd\ne\nf", "a\nb\nc\nd\ne\nx"))[0]).toEqual({ kind: "left", text: "… 2 lines are the same" });
});

describe("edits of a mapping", () => {
  const columns = (...names: string[]) => names.map((name) => ({ type: "body" as const, name }));
  const [ours, theirs, mine] = [columns("a"), columns("a", "b"), columns("a", "c")];
  test("are none until something is edited: the sink is followed", () => {
    const draft = followed({ columns: ours, base: ours }, theirs, false);
    expect(draft).toEqual({ columns: theirs, base: theirs });
    expect([isEdited(draft, false), isOvertaken(draft, theirs, false)]).toEqual([false, false]);
  });
  test("are kept when somebody else changes the mapping, who is named before it is replaced", () => {
    const draft = { columns: mine, base: ours };
    expect(followed(draft, ours, false)).toBe(draft);
    expect(followed(draft, theirs, false)).toBe(draft);
    expect([isOvertaken(draft, ours, false), isOvertaken(draft, theirs, false)]).toEqual([false, true]);
  });
  test("end when the sink has them, whoever has saved them", () => {
    const draft = followed({ columns: mine, base: ours }, columns("a", "c"), false);
    expect(isEdited(draft, false)).toBe(false);
    expect(followed(draft, theirs, false).columns).toBe(theirs);
  });
  test("that the API doesn't store stay while they are typed, but are no draft", () => {
    const draft = { columns: columns("a "), base: ours };
    expect(isEdited(draft, false)).toBe(false);
    expect(followed(draft, columns("a"), false)).toBe(draft);
    expect(followed(draft, theirs, false).columns).toBe(theirs);
  });
  test("outlive a token that ends, belong to it alone, and are forgotten at the end of the session", () => {
    const [source, sink] = [{ projectId: 1, branchId: 2 }, { sourceId: "shop", sinkId: "events" }];
    const draft = { columns: mine, base: ours };
    const signedIn = (tokenId: string, name: string) => {
      signIn({ token: `text of ${tokenId}`, branch: "default" });
      token.value = { tokenId, name, rights: ["read", "write"] };
      return draftOf(draftKey(source, sink));
    };
    signedIn("1", "ada");
    keepDraft(draftKey(source, sink), draft);
    expect(draftOf(draftKey(source, { ...sink, sinkId: "other" }))).toBeUndefined();
    endSession("the token has expired");
    expect(signedIn("2", "grace")).toBeUndefined();
    expect(signedIn("3", "")).toBeUndefined();
    expect(namesake(draftKey(source, sink))).toBeUndefined();
    expect(signedIn("4", "ada")).toBeUndefined();
    expect(namesake(draftKey(source, { ...sink, sinkId: "other" }))).toBeUndefined();
    const earlier = namesake(draftKey(source, sink));
    expect(earlier?.draft).toBe(draft);
    keepDraft(earlier!.key, null);
    expect(namesake(draftKey(source, sink))).toBeUndefined();
    expect(signedIn("1", "ada")).toBeUndefined();
    keepDraft(draftKey(source, sink), draft);
    endSession("the token has expired");
    expect(signedIn("1", "ada")).toBe(draft);
    endSession();
    expect(signedIn("1", "ada")).toBeUndefined();
    endSession();
    token.value = null;
  });
  test("of an API that shows no ids belong to one session", () => {
    const [source, sink] = [{ projectId: 1, branchId: 2 }, { sourceId: "shop", sinkId: "events" }];
    const signedIn = (text: string) => {
      signIn({ token: text, branch: "default" });
      token.value = { name: "", rights: ["read", "write"] };
      return draftKey(source, sink);
    };
    const first = signedIn("one");
    keepDraft(first, { columns: mine, base: ours });
    expect(draftOf(draftKey(source, sink))?.columns).toBe(mine);
    expect(JSON.stringify(first)).not.toContain("one");
    endSession("the token has expired");
    expect(draftOf(signedIn("two"))).toBeUndefined();
    expect(namesake(signedIn("two"))).toBeUndefined();
    endSession();
    token.value = null;
  });
});

describe("the connection to the API", () => {
  const settle = () => vi.advanceTimersByTimeAsync(0);
  let isUp = true;
  const asked: string[] = [];
  const stub = () => {
    vi.useFakeTimers();
    isUp = true;
    asked.length = 0;
    vi.stubGlobal("fetch", (path: string) => {
      asked.push(path);
      if (!isUp) return Promise.reject(new TypeError("refused"));
      return Promise.resolve(new Response("", { status: path === "/slow" ? 504 : 200 }));
    });
  };
  test("isn't lost because a proxy gives up one call", async () => {
    stub();
    const before = answers.value;
    const states: string[] = [];
    const stop = connection.subscribe((state) => void states.push(state));
    await expect(request("GET", "/slow")).rejects.toThrow(Unreachable);
    await settle();
    expect(states).toEqual(["ok"]);
    expect(answers.value).toEqual({ found: before.found + 1, outages: before.outages });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(asked).toEqual(["/slow", "/health-check"]);
    stop();
  });
  test("is lost until the API is healthy", async () => {
    stub();
    const before = answers.value;
    isUp = false;
    await expect(request("GET", "/any")).rejects.toThrow(Unreachable);
    await settle();
    expect(connection.value).toBe("lost");
    doubt();
    isUp = true;
    await vi.advanceTimersByTimeAsync(1_000);
    expect(connection.value).toBe("ok");
    expect(answers.value).toEqual({ found: before.found + 1, outages: before.outages + 1 });
    expect(asked).toEqual(["/any", "/health-check", "/health-check"]);
  });
  test("is there when any call is answered, even without a health check", async () => {
    stub();
    isUp = false;
    doubt();
    await settle();
    expect(connection.value).toBe("lost");
    answered();
    expect(connection.value).toBe("ok");
    await vi.advanceTimersByTimeAsync(60_000);
    expect(connection.value).toBe("ok");
  });
  test("lets a failed call be repeated after each outage, otherwise once", () => {
    const repeats = new Repeats();
    const now = { found: 3, outages: 1 };
    const next = (by: { found: number; outages: number }) => ({ found: now.found + by.found, outages: now.outages + by.outages });
    expect(repeats.isDue(now)).toBe(false);
    repeats.fails(now);
    expect([repeats.isDue(now), repeats.isDue(next({ found: 1, outages: 0 }))]).toEqual([false, true]);
    expect(repeats.isDue(next({ found: 1, outages: 0 }))).toBe(false);
    repeats.fails(next({ found: 1, outages: 0 }));
    expect(repeats.isDue(next({ found: 2, outages: 0 }))).toBe(false);
    expect(repeats.isDue(next({ found: 3, outages: 1 }))).toBe(true);
    repeats.succeeds();
    repeats.fails(next({ found: 3, outages: 1 }));
    expect(repeats.isDue(next({ found: 4, outages: 1 }))).toBe(true);
    let made = 1;
    for (let outages = 2; outages < 50; outages++) {
      repeats.fails(next({ found: outages + 2, outages: outages - 1 }));
      made += Number(repeats.isDue(next({ found: outages + 3, outages })));
    }
    expect(made).toBe(5);
  });
  test("a reload that is asked for during another one has what was changed before", async () => {
    const given: ((answer: Response) => void)[] = [];
    vi.stubGlobal("fetch", () => new Promise<Response>((resolve) => given.push(resolve)));
    const answer = (sourceId: string) => {
      const found = { page: { lastId: "" }, sources: [{ sourceId, sinks: [] }] };
      for (const give of given.splice(0)) give(new Response(JSON.stringify(found)));
    };
    session.value = { token: "one", branch: "default" };
    token.value = { name: "one", rights: ["read"] };
    const first = load();
    const second = load();
    expect(load()).toBe(second);
    answer("before");
    await first;
    expect(sources.value?.map((each) => each.sourceId)).toEqual(["before"]);
    await vi.waitFor(() => expect(given).toHaveLength(1));
    answer("after");
    await second;
    expect(sources.value?.map((each) => each.sourceId)).toEqual(["after"]);
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
    session.value = null;
    sources.value = null;
    token.value = null;
  });
});

describe("a tail", () => {
  const tails: Tail[] = [];
  const made = () => {
    vi.stubGlobal("fetch", () => new Promise<Response>(() => undefined));
    tails.push(new Tail("shop"));
    return tails.at(-1)!;
  };
  test("pauses while a record is read", () => {
    const tail = made();
    tail.hold();
    tail.hold();
    expect(tail.isPaused.value).toBe(true);
    tail.release();
    expect(tail.isPaused.value).toBe(false);
  });
  test("stays as the user has set it", () => {
    const tail = made();
    tail.pause(true);
    tail.hold();
    tail.release();
    expect(tail.isPaused.value).toBe(true);
    tail.pause(false);
    tail.hold();
    tail.pause(true);
    tail.release();
    expect(tail.isPaused.value).toBe(true);
  });
  afterEach(() => {
    for (const tail of tails.splice(0)) tail.stop();
    vi.unstubAllGlobals();
  });
});

describe("a task", () => {
  test("is waited for at once; only an API that answers early is asked again after a pause", async () => {
    vi.useFakeTimers();
    const asked: string[] = [];
    const task = (isFinished: boolean) => ({ taskId: "api.x/1", status: isFinished ? "success" : "processing", isFinished });
    vi.stubGlobal("fetch", (url: string) => {
      asked.push(String(url));
      return Promise.resolve(new Response(JSON.stringify(task(asked.length === 3)), { status: 202 }));
    });
    session.value = { token: "one", branch: "default" };
    const done = change("Change it", "PUT", "/v1/x");
    await vi.advanceTimersByTimeAsync(0);
    expect(asked).toHaveLength(2);
    expect(asked[1]).toContain("/v1/tasks/api.x/1?wait=10s");
    await vi.advanceTimersByTimeAsync(100);
    expect((await done).status).toBe("success");
    expect(asked).toHaveLength(3);
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
    session.value = null;
  });
});

describe("the number of kept records", () => {
  test("is that of the list, and of one session", () => {
    learnKept("/v1/a/rejected", 2);
    learnKept("/v1/b/rejected", 0);
    expect([keptOf("/v1/a/rejected"), keptOf("/v1/b/rejected"), keptOf("/v1/c/rejected")]).toEqual([2, 0, undefined]);
    signIn({ token: "of another", branch: "default" });
    expect(keptOf("/v1/a/rejected")).toBeUndefined();
    endSession();
  });
  test("differs from that of all that were ever rejected", () => {
    expect(everText(1_200)).toBe("1,200 records have been rejected in all, including those that were replayed, deleted or dropped.");
    expect(everText(1)).toMatch(/^1 record has been rejected/);
  });
});

describe("the outcome of a replay", () => {
  const away = (nodeId: string) => ({ nodeId, available: false, message: "the node doesn't run" });
  test("names the nodes whose records are missing", () => {
    expect(replayText({ replayed: 1_200, stored: 1_199, rejected: 1 })).toBe("1,199 of 1,200 became rows, 1 rejected again.");
    expect(replayText({ replayed: 2, stored: 2, rejected: 0, nodes: [away("source-1")] })).toBe(
      "2 of 2 became rows, 0 rejected again. The records of source-1 are missing (the node doesn't run): replay again later.",
    );
    expect(replayText({ replayed: 0, hasMore: true, nodes: [away("a"), { nodeId: "b", available: true }, away("c")] })).toBe(
      "0 of 0 became rows, 0 rejected again. More records are waiting: replay again. The records of a, c are missing (the node doesn't run): replay again later.",
    );
  });
  test("is the text of the task if an older API doesn't count", () => expect(replayText({})).toBeNull());
  test("of other requests name them, too", () => {
    expect(missingText(undefined, "are still kept")).toBe("");
    expect(missingText([away("a"), { nodeId: "b", available: false }], "are still kept")).toBe(
      "The records of a, b are still kept (the node doesn't run; the node can't be reached)",
    );
  });
});
