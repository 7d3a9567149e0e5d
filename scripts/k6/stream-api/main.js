// Benchmark of ingestion: makes a source and a sink, sends records, deletes the source. Needs nothing from a network.
import http from "k6/http";
import { check, sleep } from "k6";

const env = (name, value) => __ENV[name] || value;
const api = env("K6_API_HOST", "http://localhost:8001");
const wait = env("STREAM_SYNC_WAIT", "true") !== "false";
const headers = { "Content-Type": "application/json", "X-StorageApi-Token": env("K6_API_TOKEN", "") };

const scenarios = {
  constant: {
    executor: "shared-iterations",
    vus: Number(env("K6_CONST_VIRTUAL_USERS", "1000")),
    iterations: Number(env("K6_CONST_TOTAL_REQUESTS", "1000000")),
    maxDuration: env("K6_CONST_TIMEOUT", "20m"),
  },
  ramping: {
    executor: "ramping-vus",
    startVUs: 0,
    stages: [
      { duration: env("K6_RAMPING_UP_DURATION", "2m"), target: Number(env("K6_RAMPING_MAX_VIRTUAL_USERS", "1000")) },
      { duration: env("K6_RAMPING_STABLE_DURATION", "10m"), target: Number(env("K6_RAMPING_MAX_VIRTUAL_USERS", "1000")) },
      { duration: env("K6_RAMPING_DOWN_DURATION", "2m"), target: 0 },
    ],
  },
};
const scenario = env("K6_SCENARIO", "constant");
if (!scenarios[scenario]) throw new Error(`Unknown K6_SCENARIO "${scenario}": constant or ramping`);

export const options = {
  scenarios: { [scenario]: scenarios[scenario] },
  setupTimeout: "240s",
  teardownTimeout: "180s",
  discardResponseBodies: true,
  systemTags: ["status", "group"],
  thresholds: { checks: ["rate>0.999"], http_req_failed: ["rate<0.001"], http_req_duration: ["p(95)<1000"] },
};

const mappings = {
  static: ["uuid", "datetime", "ip", "body", "headers"].map((type) => ({ type, name: type })),
  path: [{ type: "uuid", name: "id" }, { type: "path", name: "g", path: "c.f.g" }],
  template: [
    { type: "uuid", name: "id" },
    { type: "template", name: "g", template: { language: "jsonnet", content: 'Body("c.f.g")' } },
  ],
};

function call(method, path, body) {
  const answer = http.request(method, api + path, body && JSON.stringify(body), { headers, responseType: "text" });
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${answer.body}`);
  return answer.json();
}

function done(task) {
  for (let second = 0; second < 180; second++) {
    const state = http.get(task.url, { headers, responseType: "text" }).json();
    if (state.isFinished) {
      if (state.error) throw new Error(`Task failed: ${state.error}`);
      return;
    }
    sleep(1);
  }
  throw new Error("Task not finished in 180 seconds");
}

export function setup() {
  const columns = mappings[env("K6_TABLE_MAPPING", "static")];
  if (!columns) throw new Error("Unknown K6_TABLE_MAPPING: static, path or template");
  const id = `benchmark-${Date.now()}`;
  const source = `/v1/branches/default/sources/${id}`;
  done(call("POST", "/v1/branches/default/sources", { sourceId: id, type: "http", name: id }));
  const table = { type: "keboola", tableId: `in.c-${id}.records`, mapping: { columns } };
  done(call("POST", `${source}/sinks`, { type: "table", name: "records", table }));
  let url = call("GET", source).http.url;
  const host = env("K6_OVERWRITE_SOURCE_HOST", "");
  if (host) url = url.replace(/^https?:\/\/[^/]+/, host);
  return { source, url };
}

const letters = "abcdefghijklmnopqrstuvwxyz";
const random = () => Array.from({ length: 10 }, () => letters[Math.floor(Math.random() * 26)]).join("");
const h = "a".repeat(Number(env("STREAM_PAYLOAD_SIZE", "1")));
const payloads = Array.from({ length: 100 }, () => JSON.stringify({ a: 1, c: { d: "e", f: { g: random(), h } } }));

export default function (data) {
  const answer = http.post(data.url, payloads[__ITER % 100], {
    headers: { "Content-Type": "application/json", "My-Custom-Header": "custom header value" },
  });
  check(answer, { accepted: (r) => r.status === (wait ? 200 : 202) });
}

export function teardown(data) {
  sleep(100);
  done(call("DELETE", data.source));
}
