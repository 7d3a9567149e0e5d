// Takes contact sheets of all pages of the console, in the states that the test has made.
//   node matrix.mjs API CHROMIUM FOLDER STATES
// STATES is JSON: by name, the token, the branch, a source and a sink, and whether the API fails: true, or "parts" if
// only its list of sources answers. Each sheet shows one page of one state at three widths, light above dark; what is
// too wide, and what axe finds, is printed as JSON at the end.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [api, executablePath, folder, given, only] = process.argv.slice(2);
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"];
const WIDTHS = [1440, 768, 360];
const SCHEMES = ["light", "dark"];
const HEIGHT = 1300;
const SETTLE_MS = 700;
const states = JSON.parse(given);
const found = { wide: [], axe: [], problems: [] };
mkdirSync(folder, { recursive: true });

const pagesOf = ({ source, sink }) => ({
  overview: "#/",
  "new-source": "#/new",
  tasks: "#/tasks",
  deleted: "#/deleted",
  ...(source && {
    source: `#/sources/${source}`,
    tail: `#/sources/${source}/tail`,
    versions: `#/sources/${source}/versions`,
    settings: `#/sources/${source}/settings`,
    "new-sink": `#/sources/${source}/new-sink`,
  }),
  ...(sink && {
    pipeline: `#/sources/${source}/sinks/${sink}`,
    mapping: `#/sources/${source}/sinks/${sink}/mapping`,
    rejected: `#/sources/${source}/sinks/${sink}/rejected`,
  }),
});

const browser = await chromium.launch({ executablePath, args: FLAGS });

async function sheet(name, rows) {
  const context = await browser.newContext({ viewport: { width: 1600, height: 900 } });
  const page = await context.newPage();
  const widths = { 1440: 780, 768: 500, 360: 280 };
  const image = ({ width, png }) => `<img width="${widths[width]}" src="data:image/png;base64,${png.toString("base64")}">`;
  const lines = rows.map((shots) => `<div style="display:flex;gap:8px;align-items:start;margin:8px">${shots.map(image).join("")}</div>`);
  await page.setContent(`<body style="margin:0;background:#888">${lines.join("")}</body>`);
  await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
  await context.close();
}

// Until nothing is loading any more.
async function shown(page) {
  await page.locator("h1, .note.bad").first().waitFor({ timeout: 60_000 });
  await page.waitForFunction(() => !document.querySelector(".loading"), null, { timeout: 60_000 });
}

async function shoot(name, { token, branch, break: broken }, fragment, act) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  page.on("pageerror", (error) => found.problems.push(`${name}: ${error.message}`));
  if (broken) await page.route("**/v1/branches/**", (route) => broken === "parts" && /\/(aggregation\/|live)/.test(route.request().url()) ? route.continue() : route.fulfill({ status: 500, json: { statusCode: 500, error: "stream.internalError", message: "Application error. Please contact our support support@keboola.com with exception ID (example)" } }));
  await page.goto(`${api}/console/${token ? `#token=${token}&branch=${branch ?? "default"}` : ""}`);
  await shown(page);
  if (fragment) await page.evaluate((hash) => void (location.hash = hash), fragment);
  await page.waitForTimeout(SETTLE_MS);
  await shown(page);
  if (act) await act(page).catch((error) => found.problems.push(`${name}: ${error.message}`));
  const rows = [];
  for (const colorScheme of SCHEMES) {
    await page.emulateMedia({ colorScheme });
    const shots = [];
    for (const width of WIDTHS) {
      await page.setViewportSize({ width, height: 900 });
      await page.waitForTimeout(SETTLE_MS / 2);
      if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) found.wide.push(`${name} at ${width}`);
      const height = Math.min(HEIGHT * (1440 / width) ** 0.3, await page.evaluate(() => document.documentElement.scrollHeight));
      const png = await page.screenshot({ fullPage: true, clip: { x: 0, y: 0, width, height: Math.max(height, 500) } });
      shots.push({ width, png });
    }
    rows.push(shots);
    await page.evaluate(AXE);
    const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    for (const each of violations)
      found.axe.push(`${name}, ${colorScheme}: ${each.impact} ${each.id} ${each.nodes.map((node) => node.target.join(" ")).slice(0, 3).join(", ")}`);
  }
  await context.close();
  return rows;
}

const openRecord = (page) => page.locator(".record").first().click({ timeout: 5_000 }).then(() => page.waitForTimeout(SETTLE_MS));
const openChange = (page) => page.getByRole("button", { name: "What changed" }).first().click({ timeout: 5_000 });
const openMenu = (page) => page.locator(".title .menu summary").click({ timeout: 5_000 });
const openDelete = async (page) => {
  await openMenu(page);
  await page.getByRole("button", { name: "Delete" }).click({ timeout: 5_000 });
};
const goAway = async (page) => {
  await page.route("**/*", (route) => route.abort());
  await page.locator(".banner").waitFor({ timeout: 60_000 });
};
const noMatch = (page) => page.getByLabel("Filter sources").fill("nothing is like this");
const openSession = (page) => page.locator(".top .menu summary").click({ timeout: 5_000 });

for (const [name, state] of Object.entries(states)) {
  const pages = Object.entries(pagesOf(state)).map(([page, fragment]) => [page, fragment, page === "tail" || page === "rejected" ? (p) => openRecord(p).catch(() => undefined) : undefined]);
  if (state.source && name === "many") {
    pages.push(["menu", `#/sources/${state.source}`, openMenu], ["delete", `#/sources/${state.source}`, openDelete], ["session", "#/", openSession]);
    pages.push(["sink-menu", `#/sources/${state.source}/sinks/${state.sink}`, openMenu], ["sink-settings", `#/sources/${state.source}/sinks/${state.sink}/settings`], ["sink-versions", `#/sources/${state.source}/sinks/${state.sink}/versions`, openChange]);
    pages.push(["missing", "#/sources/nowhere"], ["no-page", "#/what"], ["away", `#/sources/${state.source}`, goAway], ["no-match", "#/", noMatch]);
  }
  if (name === "reader") pages.push(["reason", `#/sources/${state.source}`, (p) => p.getByRole("button", { name: "Change" }).focus()]);
  for (const [page, fragment, act] of pages) {
    if (only && !new RegExp(only).test(`${name}-${page}`)) continue;
    await sheet(`${name}-${page}`, await shoot(`${name}-${page}`, state, fragment, act));
  }
}
await browser.close();
console.log(JSON.stringify(found));
