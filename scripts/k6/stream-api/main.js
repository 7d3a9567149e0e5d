// Benchmark of ingestion: makes a source with a sink, sends records to it, and deletes the source.
// Variables are described in docs/deployment.md. Needs nothing from any network but the service.
import http from "k6/http";
import { check, group, sleep } from "k6";
import { Api } from "./api.js";

const SYNC = "storage.level.local.encoding.sync";

function text(name, fallback) {
  return __ENV[name] || fallback;
}

function number(name, fallback) {
  const value = Number(text(name, fallback));
  if (!Number.isFinite(value) || value < 0) throw new Error(`${name} is not a number: "${__ENV[name]}"`);
  return value;
}

function flag(name, fallback) {
  const value = text(name, String(fallback));
  if (value !== "true" && value !== "false") throw new Error(`${name} is "${value}": true or false`);
  return value === "true";
}

function oneOf(name, fallback, known) {
  const value = text(name, fallback);
  if (!(value in known)) throw new Error(`${name} is "${value}": ${Object.keys(known).join(" or ")}`);
  return value;
}

// Seconds of "1h2m3s", "500ms", ….
function seconds(duration) {
  const units = { ms: 0.001, s: 1, m: 60, h: 3600 };
  return [...duration.matchAll(/([\d.]+)(ms|s|m|h)/g)].reduce((sum, [, count, unit]) => sum + count * units[unit], 0);
}

const parallel = Math.max(1, number("K6_PARALLEL_REQS_PER_USER", 1));
const maxUsers = number("K6_RAMPING_MAX_VIRTUAL_USERS", 1000);
const scenarios = {
  constant: {
    executor: "shared-iterations",
    vus: number("K6_CONST_VIRTUAL_USERS", 1000),
    iterations: Math.ceil(number("K6_CONST_TOTAL_REQUESTS", 1000000) / parallel),
    maxDuration: text("K6_CONST_TIMEOUT", "20m"),
  },
  ramping: {
    executor: "ramping-vus",
    startVUs: 0,
    stages: [
      { duration: text("K6_RAMPING_UP_DURATION", "2m"), target: maxUsers },
      { duration: text("K6_RAMPING_STABLE_DURATION", "10m"), target: maxUsers },
      { duration: text("K6_RAMPING_DOWN_DURATION", "2m"), target: 0 },
    ],
  },
};
const mappings = {
  static: ["uuid", "datetime", "ip", "body", "headers"].map((type) => ({ type, name: type })),
  path: [{ type: "uuid", name: "id" }, { type: "path", name: "g", path: "c.f.g" }],
  template: [
    { type: "uuid", name: "id" },
    { type: "template", name: "g", template: { language: "jsonnet", content: 'Body("c.f.g")' } },
  ],
};

const token = text("K6_API_TOKEN", "");
if (!token) throw new Error("Missing K6_API_TOKEN");
const api = new Api(text("K6_API_HOST", "http://localhost:8001"), token);
const scenario = oneOf("K6_SCENARIO", "constant", scenarios);
const columns = mappings[oneOf("K6_TABLE_MAPPING", "static", mappings)];
const mode = oneOf("STREAM_SYNC_MODE", "disk", { disk: 1, cache: 1 });
const wait = flag("STREAM_SYNC_WAIT", true);
const expected = wait ? 200 : 202;
const records = "{group:::records}";
// A rate that k6 tells includes its setup and teardown, so the least rate is a number of requests in the time of
// the records alone.
const minRate = number("K6_MIN_RATE", 0);
if (minRate && seconds(scenarios.constant.maxDuration) > scenarios.constant.iterations * parallel / minRate) {
  scenarios.constant.maxDuration = `${Math.ceil((scenarios.constant.iterations * parallel) / minRate)}s`;
}
const least = {
  constant: scenarios.constant.iterations * parallel,
  ramping: minRate * seconds(scenarios.ramping.stages[1].duration),
};

export const options = {
  scenarios: { [scenario]: scenarios[scenario] },
  setupTimeout: "240s",
  teardownTimeout: "180s",
  discardResponseBodies: true,
  batch: parallel,
  batchPerHost: parallel,
  systemTags: ["status", "group"],
  thresholds: {
    [`checks${records}`]: [`rate>=${1 - number("K6_MAX_ERROR_RATE", 0.001)}`],
    [`http_req_duration${records}`]: [`p(95)<${number("K6_MAX_P95", 1000)}`],
    [`http_reqs${records}`]: [`count>=${least[scenario]}`],
    // Not tests: they make k6 print a line for each.
    "http_req_duration{group:::setup}": ["max>=0"],
    "http_req_duration{group:::teardown}": ["max>=0"],
    [`http_reqs{group:::records,status:${expected}}`]: ["count>=0"],
  },
};

// k6 with its own client, or with the faster one of the extension, which counts no bytes.
function client() {
  const headers = { "Content-Type": "application/json", "My-Custom-Header": "custom header value" };
  if (!flag("K6_FASTHTTP", false)) {
    const params = { headers, responseCallback: http.expectedStatuses(expected) };
    return (url, bodies) =>
      bodies.length === 1
        ? [http.post(url, bodies[0], params)]
        : http.batch(bodies.map((body) => ({ method: "POST", url, body, params })));
  }
  const { Client, Request } = require("k6/x/fasthttp");
  const fast = new Client();
  return (url, bodies) => bodies.map((body) => fast.post(new Request(url, { body, headers })));
}

const send = client();
const letters = "abcdefghijklmnopqrstuvwxyz";
const random = () => Array.from({ length: 10 }, () => letters[Math.floor(Math.random() * 26)]).join("");
const h = "a".repeat(number("STREAM_PAYLOAD_SIZE", 1));
const payloads = Array.from({ length: 100 }, () => JSON.stringify({ a: 1, c: { d: "e", f: { g: random(), h } } }));

export function setup() {
  const id = `benchmark-${Date.now()}-${random()}`;
  api.createSource(id);
  try {
    const running = api.settings(id)[`${SYNC}.mode`];
    if (running !== mode) {
      // It is protected, so only whoever runs the service can choose it.
      throw new Error(`The service runs with ${SYNC}.mode "${running}", STREAM_SYNC_MODE is "${mode}"`);
    }
    api.changeSetting(id, `${SYNC}.wait`, wait);
    api.createSink(id, columns);
    return { id, url: api.sourceUrl(id, text("K6_OVERWRITE_SOURCE_HOST", "")) };
  } catch (error) {
    api.deleteSource(id);
    throw error;
  }
}

export default function (data) {
  const bodies = Array.from({ length: parallel }, (_, i) => payloads[(__ITER * parallel + i) % payloads.length]);
  group("records", () => {
    for (const answer of send(data.url, bodies)) {
      check(answer, { [`status is ${expected}`]: (r) => r.status === expected });
    }
  });
}

export function teardown(data) {
  sleep(number("K6_TEARDOWN_WAIT", 100));
  api.deleteSource(data.id);
}
