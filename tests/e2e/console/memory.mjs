// Keeps pages of the console open, and says once a minute how much memory each of them has.
//   node memory.mjs API TOKEN CHROMIUM SOURCE SINK MINUTES
// Each line is JSON: the minute and, by page, the heap after a collection, DOM nodes and listeners.
import { chromium } from "playwright-core";

const [api, token, executablePath, source, sink, minutes] = process.argv.slice(2);
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"];
const PAGES = {
  overview: "#/",
  source: `#/sources/${source}`,
  tail: `#/sources/${source}/tail`,
  pipeline: `#/sources/${source}/sinks/${sink}`,
  rejected: `#/sources/${source}/sinks/${sink}/rejected`,
  "overview, cut off each minute": "#/",
};
const OFFLINE_MS = 3_000;

const browser = await chromium.launch({ executablePath, args: FLAGS });
const opened = [];
const problems = [];
for (const [name, fragment] of Object.entries(PAGES)) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  page.on("pageerror", (error) => problems.push(`${name}: ${error.message}`));
  await page.goto(`${api}/console/#token=${token}`);
  await page.getByRole("heading", { name: "Sources" }).waitFor();
  await page.evaluate((hash) => void (location.hash = hash), fragment);
  const session = await context.newCDPSession(page);
  await session.send("HeapProfiler.enable");
  opened.push({ name, context, session });
}

async function sample({ session }) {
  // Twice: what the first leaves to finalizers is gone after the second.
  for (let round = 0; round < 2; round++) await session.send("HeapProfiler.collectGarbage");
  const { usedSize } = await session.send("Runtime.getHeapUsage");
  const { nodes, jsEventListeners } = await session.send("Memory.getDOMCounters");
  return { bytes: Math.round(usedSize), nodes, listeners: jsEventListeners };
}

for (let minute = 0; minute <= Number(minutes); minute++) {
  const pages = {};
  for (const each of opened) pages[each.name] = await sample(each);
  console.log(JSON.stringify({ minute, pages, problems }));
  const { context } = opened.at(-1);
  await context.setOffline(true);
  await new Promise((resolve) => setTimeout(resolve, OFFLINE_MS));
  await context.setOffline(false);
  await new Promise((resolve) => setTimeout(resolve, 60_000 - OFFLINE_MS));
}
await browser.close();
