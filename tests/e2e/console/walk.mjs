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
const name = pictures ? "Shop" : "<b>Shop</b> & co";
const id = pictures ? "shop" : "b-shop-b-co";
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

async function picture(name, { width = 1440, height = 900, dark = false } = {}) {
  if (!pictures) return;
  mkdirSync(pictures, { recursive: true });
  await page.setViewportSize({ width, height });
  await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
  await page.waitForTimeout(400); // the chart is drawn for the new size
  const session = await context.newCDPSession(page);
  const { data } = await session.send("Page.captureScreenshot", { format: "webp", quality: 72 });
  writeFileSync(`${pictures}/${name}.webp`, Buffer.from(data, "base64"));
  await session.detach();
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1440, height: 900 });
}

const go = (fragment) => page.evaluate((hash) => void (location.hash = hash), fragment);

async function firstRow() {
  await page.goto(`${api}/console/#token=${token}`);
  await page.getByRole("heading", { name: "No source yet" }).waitFor();
  if ((await page.evaluate(() => location.href)).includes(token)) seen.problems.push("the token stays in the address");
  await check("empty");
  await page.getByRole("link", { name: "Create a source" }).click();
  await page.getByLabel("Name").fill(name);
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

async function everyPage() {
  const source = `#/sources/${id}`;
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
  await go("#/");
  await page.getByText("Live", { exact: true }).waitFor();
  isAway = true;
  await ask("stop the API");
  await page.getByText("The API can't be reached.").waitFor();
  await check("away");
  await ask("start the API");
  await page.getByText("The API can't be reached.").waitFor({ state: "hidden", timeout: 40_000 });
  await page.getByText("Live", { exact: true }).waitFor({ timeout: 40_000 });
  isAway = false;
  step("away and back");
}

async function loaded() {
  await ask(`send records to ${id}`);
  await go("#/");
  if (pictures) await page.waitForTimeout(PICTURE_SECONDS * 1000); // so that they show something
  await page.locator(".stat .figure").first().filter({ hasNotText: /^0$/ }).waitFor();
  await picture("overview");
  await picture("overview-dark", { dark: true });
  await picture("overview-narrow", { width: 360, height: 740, dark: true });
  await go(`#/sources/${id}`);
  await page.getByRole("heading", { name: "Sinks" }).waitFor();
  await picture("source", { height: 1100 });
  await go(`#/sources/${id}/tail`);
  await page.locator(".record").nth(3).waitFor();
  await page.locator(".record").nth(1).click();
  await check("tail");
  await picture("tail");
  await go(`#/sources/${id}/sinks/events`);
  await page.locator(".file[data-state=writing] .slice").first().waitFor();
  await picture("pipeline", { height: 1000, dark: true });
  step("under load");
}

async function signedOut() {
  await page.goto(`${api}/console/`);
  await page.getByRole("heading", { name: "Sources" }).waitFor();
  // The token ends meanwhile: the next answer says so.
  await page.route("**/v1/branches/**", (route) => route.continue({ headers: { "X-StorageApi-Token": "ended" } }));
  await go("#/deleted");
  await page.getByText("The session has ended").waitFor();
  await page.getByLabel("Token").fill("not-a-token");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator(".wrong").first().waitFor();
  await check("sign in");
  step("signed out");
}

async function viewer() {
  await page.goto(`${api}/v1/documentation/#ListSources`);
  const operation = page.locator("#operations-configuration-ListSources");
  await operation.getByRole("button", { name: "Execute" }).click();
  await operation.locator(".live-responses-table .response-col_status", { hasText: "200" }).waitFor();
  step("viewer");
}

try {
  await firstRow();
  await everyPage();
  await rejected();
  await loaded();
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
