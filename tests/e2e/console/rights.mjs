// Walks through the console with tokens of different rights.
//   node rights.mjs API CHROMIUM TOKENS
// TOKENS is JSON: a token by its name. The project has the source "shop" with the sink "orders" and a rejected record.
// It asks for what only the test can do by a line ("revoke leaving"), and goes on when it is answered. The last line
// is what was seen, as JSON.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [api, executablePath, given] = process.argv.slice(2);
const tokens = JSON.parse(given);
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const ask = async (what) => {
  console.log(what);
  await answers.next();
};
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"];
const SOURCE = "#/sources/shop";
const SINK = `${SOURCE}/sinks/orders`;
const PAGES = {
  overview: "#/",
  "new source": "#/new",
  tasks: "#/tasks",
  deleted: "#/deleted",
  source: SOURCE,
  tail: `${SOURCE}/tail`,
  versions: `${SOURCE}/versions`,
  settings: `${SOURCE}/settings`,
  "new sink": `${SOURCE}/new-sink`,
  pipeline: SINK,
  mapping: `${SINK}/mapping`,
  rejected: `${SINK}/rejected`,
  "versions of a sink": `${SINK}/versions`,
  "settings of a sink": `${SINK}/settings`,
};
// What is asked of the API with POST and changes nothing.
const TRIES = /\/test(\/mapping)?$/;
const seen = { problems: [], refused: [], changes: [], axe: [], wide: [], offered: {}, reasons: {}, steps: [] };

const browser = await chromium.launch({ executablePath, args: FLAGS });

async function signedIn(name, act) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("pageerror", (error) => seen.problems.push(`${name}: ${error.stack}`));
  page.on("response", (answer) => {
    const path = new URL(answer.url()).pathname;
    if (answer.status() === 403) seen.refused.push(`${name}: ${answer.request().method()} ${path}`);
  });
  page.on("request", (request) => {
    const path = new URL(request.url()).pathname;
    // What is sent to the source itself is no change of it.
    if (request.method() !== "GET" && request.url().startsWith(api) && !TRIES.test(path)) seen.changes.push(`${name}: ${request.method()} ${path}`);
  });
  try {
    await page.goto(`${api}/console/#token=${tokens[name]}`);
    await page.getByRole("link", { name: "Stream, overview" }).waitFor();
    await act(page);
  } catch (error) {
    seen.problems.push(`${name}: ${error.stack}\nThe page shows:\n${(await page.locator("body").innerText()).slice(0, 1500)}`);
  }
  await context.close();
}

const go = async (page, fragment) => {
  await page.evaluate((hash) => void (location.hash = hash), fragment);
  await page.locator("main h1").waitFor();
  await page.waitForFunction(() => !document.querySelector(".loading"));
};

async function check(page, name) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const each of violations)
    if (["serious", "critical"].includes(each.impact))
      seen.axe.push(`${name}: ${each.id} ${each.nodes.map((node) => node.target.join(" ")).join(", ")}`);
}

// Opens what hides actions, and returns the names of those that are offered.
async function offered(page) {
  const closed = page.locator("details:not([open]) > summary");
  while (await closed.count()) await closed.first().click();
  const buttons = await page.getByRole("button", { disabled: false }).all();
  return Promise.all(buttons.map((each) => each.evaluate((node) => node.getAttribute("aria-label") ?? node.textContent)));
}

async function opened(page, fragment) {
  await go(page, "#/nowhere");
  await go(page, fragment);
  if (fragment.endsWith("/rejected"))
    await page.locator(".record").first().click({ timeout: 5_000 }).catch(() => undefined);
}

// Each action that is offered is taken: none may be one that the API refuses, or that changes something.
async function takeAll(page, name, fragment) {
  await opened(page, fragment);
  const names = await offered(page);
  for (const [place, label] of names.entries()) {
    if (["Sign out", "Sign in with another token"].includes(label)) continue;
    const buttons = page.getByRole("button", { disabled: false });
    // What was taken before may have changed the page.
    if ((await buttons.count()) !== names.length) {
      await opened(page, fragment);
      await offered(page);
    }
    const button = buttons.nth(place);
    if (!(await button.isVisible().catch(() => false))) continue;
    await button.click();
    if (await page.locator("dialog").count()) seen.problems.push(`${name}: “${label}” asks to confirm a change`);
    if (new URL(page.url()).hash !== fragment) await opened(page, fragment);
  }
  return names;
}

async function watches(name, page) {
  seen.offered[name] = {};
  for (const [title, fragment] of Object.entries(PAGES)) {
    await go(page, fragment);
    await check(page, `${name}, ${title}`);
    await page.setViewportSize({ width: 360, height: 800 });
    if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) seen.wide.push(`${name}, ${title}`);
    await page.setViewportSize({ width: 1440, height: 900 });
    seen.offered[name][title] = await takeAll(page, title, fragment);
  }
}

async function reasonOf(page, fragment, label) {
  await go(page, fragment);
  const button = page.getByRole("button", { name: label, disabled: true });
  // As with the keyboard: what says why is shown, and read aloud.
  await button.focus();
  const tip = page.getByRole("tooltip").filter({ visible: true });
  await tip.waitFor();
  const described = await button.evaluate((node) => document.getElementById(node.getAttribute("aria-describedby"))?.textContent);
  if (described !== (await tip.innerText())) seen.problems.push(`${label} is described by ${described}`);
  await button.press("Enter");
  return described;
}

await signedIn("reader", async (page) => {
  await page.locator(".top .menu summary").click();
  await page.getByText("“reader”: read").waitFor();
  await watches("reader", page);
  for (const [fragment, label] of [["#/", "New source"], [SOURCE, "Change"], [SOURCE, "New sink"], [`${SINK}/mapping`, "Take the next record"]])
    seen.reasons[label] = await reasonOf(page, fragment, label);
  await go(page, `${SOURCE}/tail`);
  await page.getByText("Records are not shown").waitFor();
  seen.steps.push("reader");
});
await signedIn("watcher", async (page) => {
  await watches("watcher", page);
  await go(page, `${SINK}/rejected`);
  for (const label of ["Replay all", "Delete all"]) seen.reasons[label] = await reasonOf(page, `${SINK}/rejected`, label);
  await page.getByRole("button", { name: "Test the mapping" }).click();
  await page.getByText("the present mapping takes 0 and rejects 1").waitFor();
  seen.steps.push("watcher");
});
const before = seen.changes.length;
await signedIn("writer", async (page) => {
  await go(page, `${SOURCE}/tail`);
  await page.getByText("Records are not shown").waitFor();
  await go(page, `${SINK}/rejected`);
  await page.getByText("Rejected records are not shown").waitFor();
  await go(page, "#/new");
  await page.getByLabel("Name").fill("Made");
  await page.getByText("Rows go to the parquet table").click();
  const kinds = page.getByLabel("Kind of table");
  seen.kinds = await kinds.locator("option").allInnerTexts();
  await page.getByRole("button", { name: "Create" }).click();
  await page.getByRole("heading", { name: "Made is ready" }).waitFor();
  await page.getByRole("button", { name: "Send", exact: true }).click();
  await page.getByText("200 OK").waitFor();
  await page.getByText("1 row is in the table.").waitFor({ timeout: 40_000 });
  await page.getByText("Rows are not shown").waitFor();
  await go(page, "#/sources/made/sinks/events");
  await page.getByRole("button", { name: "Last imports" }).count();
  seen.steps.push("writer");
});
if (seen.changes.length === before) seen.problems.push("a token that may write changed nothing");
seen.changes.splice(before);
await signedIn("elsewhere", async (page) => {
  // No connection is for this project.
  await page.getByText("There is no target for rows yet").waitFor();
  await check(page, "no target");
  seen.steps.push("elsewhere");
});
await signedIn("leaving", async (page) => {
  await go(page, SOURCE);
  await ask("revoke leaving");
  await page.getByText("The session has ended").waitFor();
  await page.getByLabel("Token").waitFor();
  if (await page.evaluate(() => sessionStorage.getItem("stream.session"))) seen.problems.push("a token that has ended is kept");
  seen.steps.push("leaving");
});
await browser.close();
console.log(JSON.stringify(seen));
process.exit(0);
