// Walks through the console in a real browser, as a person would.
//   node walk.mjs API TOKEN CHROMIUM PICTURES
// It asks for what only the test can do by a line ("stop the API"), and goes on when it is answered. The last line
// is what was seen, as JSON. PICTURES is a folder for screenshots, or empty.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [api, token, executablePath, pictures] = process.argv.slice(2);
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const ask = async (what) => {
  console.log(what);
  await answers.next();
};
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = [
  ...["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
  ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
];
// A name with markup is tried; pictures are for people.
const name = pictures ? "Shop" : "<b>IoT Über</b> & co";
const id = pictures ? "shop" : "b-io-t-uber-b-co";
const PICTURE_SECONDS = 75;
const seen = { problems: [], axe: [], requests: [], wide: [], steps: [] };

const browser = await chromium.launch({ executablePath, args: FLAGS });
const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
const page = await context.newPage();
page.setDefaultTimeout(20_000);
let isAway = false;
page.on("console", (message) => {
  if (message.type() === "error" && !isAway && !/status of 4\d\d/.test(message.text())) seen.problems.push(message.text());
});
page.on("pageerror", (error) => seen.problems.push(error.stack));
page.on("request", (request) => seen.requests.push(new URL(request.url()).origin));

const step = (name) => seen.steps.push(name);

async function check(name) {
  await page.evaluate(AXE);
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const each of found.violations)
    if (["serious", "critical"].includes(each.impact))
      seen.axe.push(`${name}: ${each.id} ${each.nodes.map((node) => node.target.join(" ")).join(", ")}`);
}

async function picture(name, { width = 1440, height = 900, schemes = ["dark", "light"] } = {}) {
  if (!pictures) return;
  mkdirSync(pictures, { recursive: true });
  await page.setViewportSize({ width, height });
  await page.mouse.move(0, 0); // nothing is pointed at
  const session = await context.newCDPSession(page);
  for (const colorScheme of schemes) {
    await page.emulateMedia({ colorScheme });
    await page.waitForTimeout(400); // the chart is drawn for the new size and in the new colors
    const { data } = await session.send("Page.captureScreenshot", { format: "webp", quality: 72 });
    writeFileSync(`${pictures}/${name}${colorScheme === "dark" ? "-dark" : ""}.webp`, Buffer.from(data, "base64"));
  }
  await session.detach();
  await page.setViewportSize({ width: 1440, height: 900 });
}

const go = (fragment) => page.evaluate((hash) => void (location.hash = hash), fragment);

async function firstRow() {
  await page.goto(`${api}/console/#token=${token}`);
  await page.getByRole("heading", { name: "No source yet" }).waitFor();
  if ((await page.evaluate(() => location.href)).includes(token)) seen.problems.push("the token stays in the address");
  await check("empty");
  await page.getByLabel("Name").fill(name);
  await page.getByText(`Its id will be ${id}.`).waitFor();
  await check("new source");
  await picture("new-source");
  await page.getByRole("button", { name: "Create" }).click();
  await page.getByRole("heading", { name: `${name} is ready` }).waitFor();
  await page.getByRole("button", { name: "Send", exact: true }).click();
  await page.getByText("200 OK").waitFor();
  await page.getByText("1 row is in the table.").waitFor({ timeout: 40_000 });
  await check("first row");
  await picture("first-row", { height: 1100 });
  step("first row");
}

// Copies, as a page can that came over plain HTTP from another machine.
async function copies() {
  await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
  await page.getByRole("button", { name: /^Copy URL/ }).click();
  await page.locator(".url [role=status]", { hasText: "Copied" }).waitFor();
  await page.getByText("Send a record from here").click();
  const record = page.getByLabel("Record", { exact: true });
  await record.fill("");
  await record.press("Control+V");
  if ((await record.inputValue()) !== (await page.locator(".url code").innerText())) seen.problems.push("the URL is not copied");
}

async function closesMenu() {
  await page.locator(".title .menu summary").press("Enter");
  await page.getByRole("button", { name: "Rename" }).focus();
  await page.locator(".tabs a").first().focus();
  if (await page.locator(".menu[open]").count()) seen.problems.push("a menu stays open when the focus leaves it");
}

async function clearsFilter() {
  await page.getByLabel("Filter settings").fill("nothing is like this");
  await page.getByText("No setting matches “nothing is like this”").waitFor();
  await page.getByRole("button", { name: "Clear the filter" }).click();
  await page.locator(".setting").first().waitFor();
}

// A time says what it is in UTC, though a link covers its row.
async function pointsAtTime() {
  const time = page.locator(".row time").first();
  const hit = await time.evaluate((node) => {
    const { left, top, width, height } = node.getBoundingClientRect();
    return document.elementFromPoint(left + width / 2, top + height / 2) === node && / UTC$/.test(node.title);
  });
  if (!hit) seen.problems.push("a time in a row doesn't say what it is in UTC");
}

async function everyPage() {
  const source = `#/sources/${id}`;
  const acts = { overview: [pointsAtTime], source: [copies, closesMenu], settings: [clearsFilter] };
  const pages = {
    overview: ["#/", "heading", "Sources"],
    source: [source, "heading", "Sinks"],
    tail: [`${source}/tail`, "button", "Pause"],
    versions: [`${source}/versions`, "button", "What changed"],
    settings: [`${source}/settings`, "searchbox", "Filter settings"],
    pipeline: [`${source}/sinks/events`, "heading", "Last imports"],
    mapping: [`${source}/sinks/events/mapping`, "heading", "Sample record"],
    rejected: [`${source}/sinks/events/rejected`, "heading", "Events"],
    "new-sink": [`${source}/new-sink`, "button", "Create the sink"],
    tasks: ["#/tasks", "heading", "Tasks"],
    deleted: ["#/deleted", "heading", "Sources"],
    missing: ["#/sources/nowhere", "heading", /There is no source/],
  };
  for (const [name, [fragment, role, text]] of Object.entries(pages)) {
    await go(fragment);
    await page.getByRole(role, { name: text, exact: typeof text === "string" }).first().waitFor();
    for (const act of acts[name] ?? []) await act();
    await check(name);
    await page.setViewportSize({ width: 360, height: 800 });
    if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) seen.wide.push(name);
    await page.setViewportSize({ width: 1440, height: 900 });
  }
  step("every page");
}

async function rejected() {
  await go(`#/sources/${id}`);
  await page.getByText("Send a record from here").click();
  await page.getByLabel("Record", { exact: true }).fill('{"user":{"name":"Grace"}}');
  await page.getByRole("button", { name: "Send", exact: true }).click();
  await page.getByText('Path "action" not found in the body.').waitFor();
  await go(`#/sources/${id}/sinks/events/rejected`);
  await page.locator(".record").first().click();
  await page.getByRole("button", { name: "Fix the mapping with this record" }).waitFor();
  await check("rejected record");
  await picture("rejected", { height: 1000 });
  await page.getByRole("button", { name: "Fix the mapping with this record" }).click();
  await page.getByText("1 column has no value").waitFor();
  await page.getByLabel("Value of action").getByText('Path "action" not found in the body.').waitFor();
  await check("mapping with an error");
  await picture("mapping", { height: 1000 });
  await page.getByLabel("Default of action, if the path is missing").fill("unknown");
  await page.getByText("The record becomes a row.").waitFor();
  await page.getByRole("button", { name: "Save the mapping" }).click();
  await page.getByRole("link", { name: "Test and replay the rejected records" }).click();
  await page.getByRole("button", { name: "Test the mapping" }).click();
  await page.getByText("the present mapping takes 1 and rejects 0").waitFor();
  await page.getByRole("button", { name: "Replay all" }).click();
  await page.getByText("1 of 1 became rows").waitFor();
  await go(`#/sources/${id}/sinks/events`);
  await page.locator(".grid td", { hasText: "Grace" }).waitFor({ timeout: 40_000 });
  step("rejected, fixed, replayed");
}

async function away() {
  const banner = page.locator(".banner", { hasText: "The API can't be reached." });
  const fallback = page.getByLabel("Default of action, if the path is missing");
  await go(`#/sources/${id}/sinks/events/mapping`);
  await page.getByText("The record becomes a row.").waitFor();
  await page.getByText("Live", { exact: true }).waitFor();
  isAway = true;
  await ask("stop the API");
  await banner.waitFor();
  // What is edited meanwhile is kept, and what can't be read is read later, without a click.
  await fallback.fill("edited meanwhile");
  await page.locator(".verdict", { hasText: "The API can't be reached." }).waitFor();
  await check("away");
  await go(`#/sources/${id}/sinks/events/versions`);
  await page.locator("main .note.bad", { hasText: "The API can't be reached." }).waitFor();
  await ask("start the API");
  await banner.waitFor({ state: "hidden", timeout: 40_000 });
  await page.getByRole("button", { name: "What changed" }).first().waitFor({ timeout: 40_000 });
  await page.getByText("Live", { exact: true }).waitFor({ timeout: 40_000 });
  isAway = false;
  await go(`#/sources/${id}/sinks/events/mapping`);
  await page.getByText("The record becomes a row.").waitFor();
  await page.getByText("Not saved yet.").waitFor();
  if ((await fallback.inputValue()) !== "edited meanwhile") seen.problems.push("an outage of the API undoes edits");
  await page.getByRole("button", { name: "Undo" }).click();
  await page.getByText("This is the current mapping.").waitFor();
  step("away and back");
}

// Other sources, so that pictures show a project at work: one rejects some of its records, one has no sink.
async function others() {
  const columns = (...paths) => [{ type: "uuid", name: "id" }, ...paths.map((path) => ({ type: "path", name: path.replace(".", "_"), path, rawString: true }))];
  const sinks = { payments: columns("user.name", "number", "price"), "web-analytics": columns("user.name", "action"), newsletter: null };
  const names = { payments: "Payments", "web-analytics": "Web analytics", newsletter: "Newsletter" };
  for (const [sourceId, mapped] of Object.entries(sinks)) {
    await call("POST", "/sources?wait=30s", { type: "http", name: names[sourceId], sourceId });
    if (mapped) {
      const table = { type: "keboola", tableId: `in.c-${sourceId}.events`, mapping: { columns: mapped } };
      await call("POST", `/sources/${sourceId}/sinks?wait=30s`, { type: "table", name: "Events", table });
      await ask(`send records to ${sourceId}`);
    }
  }
  await call("POST", "/sources?wait=30s", { type: "otlp", name: "Logs of all services", sourceId: "logs" });
}

async function loaded() {
  if (pictures) await others();
  await ask(`send records to ${id}`);
  await go("#/");
  if (pictures) await page.waitForTimeout(PICTURE_SECONDS * 1000); // so that they show something
  await page.locator(".stat .figure").first().filter({ hasNotText: /^0$/ }).waitFor();
  await picture("overview", { height: 760 });
  await picture("overview-narrow", { width: 360, height: 740 });
  await go(`#/sources/${id}`);
  await page.getByRole("heading", { name: "Sinks" }).waitFor();
  await picture("source", { height: 1100 });
  await go(`#/sources/${id}/tail`);
  await page.locator(".record").nth(3).waitFor();
  await page.locator(".record").nth(1).click();
  await page.getByText("Paused").waitFor();
  await check("tail");
  await picture("tail");
  // What was opened paused the tail; what the user has paused stays so.
  const tail = page.getByRole("region", { name: "Live tail" });
  await page.locator(".record[aria-expanded=true]").click();
  await tail.locator(".feed", { hasText: "Live" }).waitFor();
  await tail.getByRole("button", { name: "Pause" }).click();
  await page.locator(".record").nth(1).click();
  await page.locator(".record[aria-expanded=true]").click();
  await tail.locator(".feed", { hasText: "Paused" }).waitFor();
  await go(`#/sources/${id}/sinks/events`);
  await page.locator(".file[data-state=writing] .slice").first().waitFor();
  await picture("pipeline", { height: 1000 });
  if (pictures) {
    await go(`#/sources/${id}/sinks/events/versions`);
    await page.getByRole("button", { name: "What changed" }).first().click();
    await page.locator(".diff [data-kind=added]").first().waitFor();
    await picture("versions");
    await go(`#/sources/${id}/sinks/events/settings`);
    await page.locator(".setting").first().waitFor();
    await picture("settings");
    await go(`#/sources/${id}/new-sink`);
    await page.getByText("The record becomes a row.").waitFor();
    await picture("new-sink", { height: 1000 });
  }
  step("under load");
}

// What another person does meanwhile, with the same token.
async function call(method, path, body) {
  const headers = { "X-StorageApi-Token": token, "Content-Type": "application/json" };
  const answer = await fetch(`${api}/v1/branches/default${path}`, { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

const newSource = (sourceId) => call("POST", "/sources?wait=30s", { type: "http", name: sourceId, sourceId });

async function deletedElsewhere() {
  await newSource("passing");
  await go("#/");
  await page.getByRole("link", { name: "passing", exact: true }).click();
  await page.getByRole("heading", { name: "passing" }).waitFor();
  await call("DELETE", "/sources/passing?wait=30s");
  await page.getByRole("heading", { name: "There is no source “passing”" }).waitFor({ timeout: 40_000 });
  await check("deleted elsewhere");
  await page.getByRole("link", { name: "deleted sources" }).click();
  await page.locator(".list li", { hasText: "passing" }).waitFor();
  await check("deleted");
  await picture("deleted", { height: 640 });
  await page.locator(".list li", { hasText: "passing" }).getByRole("button", { name: "Undelete" }).click();
  await page.getByText("No source is deleted").waitFor();
  await go("#/sources/passing");
  await page.getByRole("heading", { name: "passing" }).waitFor();
  step("deleted in another tab");
}

async function tasksOfOthers() {
  await call("PATCH", "/sources/passing?wait=30s", { description: "Changed elsewhere." });
  await go("#/tasks");
  const row = page.locator(".list li", { hasText: "Update source passing" });
  await row.getByText("done").waitFor();
  await picture("tasks");
  await row.getByRole("link").click();
  await page.getByRole("heading", { name: "passing" }).waitFor();
  await page.getByText("Changed elsewhere.").waitFor({ timeout: 40_000 });
  step("changes of others");
}

async function largeRecord() {
  const { http } = await newSource("large");
  await go("#/sources/large/tail");
  const records = page.locator(".record");
  // The tail is there when a record arrives; what was sent before it was opened is not shown.
  const body = JSON.stringify({ text: "<img src=x onerror=alert(1)>".repeat(34_000) });
  const sending = setInterval(() => void fetch(http.url, { method: "POST", headers: { "Content-Type": "application/json" }, body }), 500);
  try {
    await records.first().waitFor();
  } finally {
    clearInterval(sending);
  }
  await records.first().click();
  await page.getByText("The body has 930 KB; its beginning is shown.").waitFor();
  if (await page.locator(".detail img").count()) seen.problems.push("markup of a record became an element");
  await check("large record");
  step("a record of 1 MB");
}

async function manyRecords() {
  const { http } = await newSource("fast");
  const columns = [{ type: "path", name: "number", path: "number" }];
  const table = { type: "keboola", tableId: "in.c-fast.events", mapping: { columns } };
  await call("POST", "/sources/fast/sinks?wait=30s", { type: "table", name: "Events", table });
  const batch = Array.from({ length: 1000 }, (_, number) => JSON.stringify({ number })).join("\n");
  let sent = 0;
  let isOver = false;
  // Ten batches a second, or as many as the machine takes.
  const send = async () => {
    while (!isOver) {
      const next = new Promise((resolve) => setTimeout(resolve, 100));
      const answer = await fetch(`${http.url}?batch=true`, { method: "POST", headers: { "Content-Type": "application/x-ndjson" }, body: batch });
      if (answer.ok) sent += 1000;
      await next;
    }
  };
  const sending = send();
  await go("#/sources/fast/tail");
  await page.getByText(/records were left out: the tail shows at most 10 a second/).waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("Paused").waitFor();
  if ((await page.locator(".record").count()) > 200) seen.problems.push("a tail keeps more than 200 records");
  await go("#/sources/fast");
  await page.getByRole("heading", { name: "Rate of the last 15 minutes" }).waitFor();
  await page.getByText(/^[1-9][\d,]* rows\/s/).waitFor();
  await go("#/sources/fast/sinks/events");
  await page.getByRole("heading", { name: "Last imports" }).waitFor();
  isOver = true;
  await sending;
  // All of them are counted, none twice.
  await go("#/sources/fast");
  await page.locator(".sinkrow", { hasText: sent.toLocaleString("en-GB") }).waitFor({ timeout: 40_000 });
  step("10,000 records a second");
}

async function slowApi() {
  // The page asks again every 1.5 s: that must not end what it waits for.
  await page.route("**/files?*", async (route) => {
    await new Promise((resolve) => setTimeout(resolve, 4_000));
    await route.continue().catch(() => undefined);
  });
  await go("#/");
  await go(`#/sources/${id}/sinks/events`);
  await page.getByRole("heading", { name: "Last imports" }).waitFor();
  await page.unroute("**/files?*");
  step("answers that take longer than a refresh");
}

// A proxy gives up one call: the others are answered, so the API is there, and the call isn't repeated without end.
async function slowCall() {
  let asked = 0;
  isAway = true;
  await page.route("**/wide/versions?*", (route) => {
    asked++;
    return route.fulfill({ status: 504, body: "gateway timeout" });
  });
  await go("#/sources/fast/sinks/wide/versions");
  await page.locator(".note.bad", { hasText: "A proxy answers 504 for the API." }).waitFor();
  const isBlamed = await page.locator(".banner").waitFor({ timeout: 5_000 }).then(() => true, () => false);
  if (isBlamed) seen.problems.push("one slow call is taken for an outage of the API");
  if (asked > 2) seen.problems.push(`a call that a proxy gives up is made ${asked} times`);
  isAway = false;
  await page.unroute("**/wide/versions?*");
  await page.getByRole("button", { name: "Try again" }).click();
  await page.getByRole("button", { name: "What changed" }).first().waitFor();
  step("a call that is too slow for a proxy");
}

async function wrongClock() {
  for (const [hours, text] of [[1, "ahead of"], [-1, "behind"]]) {
    const other = await context.newPage();
    await other.addInitScript((shift) => {
      const Real = Date;
      globalThis.Date = class extends Real {
        constructor(...given) {
          super(...(given.length ? given : [Real.now() + shift]));
        }
        static now() {
          return Real.now() + shift;
        }
      };
    }, hours * 3_600_000);
    await other.goto(`${api}/console/#token=${token}`);
    await other.getByText(new RegExp(`The clock of this computer is (1 h 0 min|59 min \\d+ s) ${text} the API's`)).waitFor();
    await other.getByText("Live", { exact: true }).waitFor();
    // By the wrong clock the newest records would be an hour old, or from the future.
    await other.locator(".row", { hasText: "fast" }).getByText(/^(now|\d+ (s|min) ago)$/).waitFor();
    await other.close();
  }
  step("a clock that is an hour off");
}

// Lists with other sources are filtered by what is shown of each.
async function manySources() {
  await Promise.all(Array.from({ length: 7 }, (_, number) => newSource(`quiet-${number}`)));
  await go("#/");
  const filter = page.getByLabel("Filter sources");
  await filter.fill("no sink");
  await page.locator(".row").first().waitFor();
  const rows = await page.locator(".row").allInnerTexts();
  if (rows.length < 7 || !rows.every((each) => each.includes("no sink"))) seen.problems.push(`filtered by a state: ${rows}`);
  await filter.fill("nothing is like this");
  await page.getByRole("button", { name: "Clear the filter" }).click();
  await page.getByRole("link", { name, exact: true }).waitFor();
  step("a filter by state");
}

async function wideMapping() {
  const columns = Array.from({ length: 100 }, (_, number) => ({ type: "path", name: `c${number}`, path: `c[${number}]`, rawString: true, defaultValue: "" }));
  const table = { type: "keboola", tableId: "in.c-fast.wide", mapping: { columns } };
  await call("POST", "/sources/fast/sinks?wait=30s", { type: "table", name: "Wide", table });
  await go("#/sources/fast/sinks/wide/mapping");
  await page.getByLabel("Body", { exact: true }).fill(JSON.stringify({ c: columns.map((_, number) => `value ${number}`) }));
  await page.getByText("The record becomes a row.").waitFor();
  await page.getByLabel("Value of c99").filter({ hasText: "value 99" }).waitFor();
  await page.getByLabel("Path of c99").fill("c[100]");
  await page.getByLabel("Default of c99, if the path is missing").fill("nothing");
  await page.getByLabel("Value of c99").filter({ hasText: "nothing" }).waitFor();
  await check("100 columns");
  await page.getByRole("button", { name: "Save the mapping" }).click();
  await page.getByText("Saved: new records use it within a second.").waitFor();
  step("a mapping of 100 columns");
}

async function hasValue(field, wanted) {
  await page.waitForFunction(([node, text]) => node.value === text, [await field.elementHandle(), wanted], { timeout: 40_000 });
}

// Somebody else changes a mapping that is open here.
async function changedElsewhere() {
  const path = `/sources/${id}/sinks/events`;
  const mapping = `#${path}/mapping`;
  const fallback = page.getByLabel("Default of action, if the path is missing");
  const notice = page.getByRole("alert").filter({ hasText: "Someone else has changed this mapping." });
  const save = page.getByRole("button", { name: "Save the mapping" });
  // The button is disabled if the page has learned of the change already.
  const trySave = async () => {
    await save.click({ timeout: 2_000 }).catch(() => undefined);
    await notice.waitFor({ timeout: 40_000 });
  };
  const changed = async (defaultValue) => {
    const { table } = await call("GET", path);
    const columns = table.mapping.columns.map((each) => (each.name === "action" ? { ...each, defaultValue } : each));
    await call("PATCH", `${path}?wait=30s`, { table: { mapping: { columns } } });
  };
  // Without edits the page follows, and there is no draft.
  await go(mapping);
  await page.getByText("This is the current mapping.").waitFor();
  await changed("theirs");
  await hasValue(fallback, "theirs");
  await page.getByText("This is the current mapping.").waitFor();
  // Edits are kept, and replace nothing that wasn't seen.
  await fallback.fill("mine");
  await changed("theirs, too");
  await trySave();
  await check("changed elsewhere");
  await go("#/");
  await go(mapping);
  await notice.waitFor();
  await page.getByRole("button", { name: "Take theirs" }).click();
  await hasValue(fallback, "theirs, too");
  await page.getByText("This is the current mapping.").waitFor();
  await fallback.fill("mine");
  await changed("theirs again");
  await trySave();
  await page.getByRole("button", { name: "Keep mine" }).click();
  await notice.waitFor({ state: "hidden" });
  await save.click();
  await page.getByText("Saved: new records use it within a second.").waitFor();
  const { table } = await call("GET", path);
  if (!table.mapping.columns.some((each) => each.defaultValue === "mine")) seen.problems.push("the mapping that was kept is not saved");
  step("a mapping that another changes");
}

async function signIn(given) {
  await page.getByLabel("Token").fill(given);
  await page.getByRole("button", { name: "Sign in" }).click();
}

async function signedOut() {
  const mapping = `#/sources/${id}/sinks/events/mapping`;
  const fallback = page.getByLabel("Default of action, if the path is missing");
  await page.goto(`${api}/console/`);
  await page.getByRole("heading", { name: "Sources" }).waitFor();
  await go(mapping);
  await fallback.fill("edited before");
  await page.getByText("Not saved yet.").waitFor();
  // The token ends meanwhile: the next answer says so.
  await page.route("**/v1/branches/**", (route) => route.continue({ headers: { "X-StorageApi-Token": "ended" } }));
  await go("#/deleted");
  await page.getByText("The session has ended").waitFor();
  await signIn("not-a-token");
  await page.locator(".wrong").first().waitFor();
  await check("sign in");
  await page.unroute("**/v1/branches/**");
  // Who signs in again finds what was edited, and nobody else; who signs out leaves nothing.
  const somebody = { tokenId: "other", projectId: 1, name: "somebody else", rights: ["read", "write", "tail", "admin"] };
  await page.route("**/v1/tokens/current", (route) => route.fulfill({ json: somebody }));
  await signIn(token);
  await page.getByRole("heading", { name: "Deleted" }).waitFor();
  await go(mapping);
  await page.getByText("This is the current mapping.").waitFor();
  if ((await fallback.inputValue()) === "edited before") seen.problems.push("somebody else finds what was edited");
  await page.route("**/v1/branches/**", (route) => route.continue({ headers: { "X-StorageApi-Token": "ended" } }));
  await go("#/deleted");
  await page.getByText("The session has ended").waitFor();
  await page.unroute("**/v1/branches/**");
  await page.unroute("**/v1/tokens/current");
  await signIn(token);
  await page.getByRole("heading", { name: "Deleted" }).waitFor();
  await go(mapping);
  await page.getByText("Not saved yet.").waitFor();
  if ((await fallback.inputValue()) !== "edited before") seen.problems.push("a token that ends undoes edits");
  await page.locator(".top .menu summary").click();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  await picture("sign-in", { height: 640 });
  await signIn(token);
  await page.getByText("This is the current mapping.").waitFor();
  step("signed out");
}

async function viewer() {
  await page.goto(`${api}/v1/documentation/#ListSources`);
  const operation = page.locator("#operations-configuration-ListSources");
  await operation.getByRole("button", { name: "Execute" }).click();
  await operation.locator(".live-responses-table .response-col_status", { hasText: "200" }).waitFor();
  await page.locator("#operations-configuration-CreateSource .opblock-summary-control").click();
  await page.locator("#operations-configuration-CreateSource textarea").waitFor();
  await check("viewer");
  await picture("viewer", { schemes: ["light"] });
  step("viewer");
}

try {
  await firstRow();
  await everyPage();
  await rejected();
  await loaded();
  await deletedElsewhere();
  await tasksOfOthers();
  await largeRecord();
  await manyRecords();
  await slowApi();
  await wrongClock();
  await wideMapping();
  await slowCall();
  await changedElsewhere();
  await manySources();
  await away();
  await viewer();
  await signedOut();
} catch (error) {
  seen.problems.push(`${error.stack}\nThe page shows:\n${(await page.locator("body").innerText()).slice(0, 2000)}`);
}
seen.requests = [...new Set(seen.requests)];
await browser.close();
console.log(JSON.stringify(seen));
process.exit(0);
