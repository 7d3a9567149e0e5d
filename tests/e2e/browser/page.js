// Sends records to the source of another origin, and tells the test what the page could see.

import { trace } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { BasicTracerProvider, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";

const { url, otlp, token } = await (await fetch("/sources")).json();
const seen = {};

async function look(name, target, options) {
  try {
    const answer = await fetch(target, { method: "POST", ...options });
    seen[name] = {
      status: answer.status,
      headers: Object.fromEntries(answer.headers),
      body: await answer.text(),
    };
  } catch (error) {
    seen[name] = { error: String(error) };
  }
}

function record(id) {
  return JSON.stringify({ id });
}

const json = { "Content-Type": "application/json" };
await look("fetch", url, { headers: json, body: record("fetch") });
await look("credentials", url, {
  headers: json,
  credentials: "include",
  body: record("credentials"),
});
await look("form", url, { body: new URLSearchParams({ id: "form" }) });
for (const name of ["key", "replayed"]) {
  await look(name, url, {
    headers: { ...json, "Idempotency-Key": "one", "X-Request-Id": "7" },
    body: record("key"),
  });
}
await look("wrong", `${url}x`, { headers: json, body: record("wrong") });
await look("method", url, { method: "GET" });
await look("encoding", url, { headers: { ...json, "Content-Encoding": "br" }, body: "x" });
await look("large", url, { headers: json, credentials: "include", body: "x".repeat(2000000) });
await look("export", `${otlp}/v1/traces`, {
  headers: { ...json, Authorization: "Bearer wrong" },
  body: "{}",
});

seen.beacon = navigator.sendBeacon(
  url,
  new Blob([record("beacon")], { type: "application/json" }),
);

const exporter = new OTLPTraceExporter({
  url: `${otlp}/v1/traces`,
  headers: { Authorization: `Bearer ${token}` },
});
const exported = new Promise((resolve) => {
  const send = exporter.export.bind(exporter);
  exporter.export = (spans, done) => {
    send(spans, (result) => {
      resolve({ code: result.code, error: result.error && String(result.error) });
      done(result);
    });
  };
});
trace.setGlobalTracerProvider(
  new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }),
);
trace.getTracer("page").startSpan("opened").end();
seen.exporter = await exported;

await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
