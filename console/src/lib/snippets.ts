/** Programs that send a first record, for pasting into a terminal. */

import type { Source } from "../api/types";

export interface Snippet {
  id: string;
  label: string;
  text: string;
  hint?: string;
}

/** Quote *text* as a word of a POSIX shell. */
export const shellQuoted = (text: string): string => `'${text.replace(/'/g, `'\\''`)}'`;

const SAMPLE = { user: { name: "Ada" }, action: "signed-in" };

function httpSnippets(url: string, sample: unknown): Snippet[] {
  const json = JSON.stringify(sample);
  return [
    {
      id: "curl",
      label: "curl",
      text: `curl ${shellQuoted(url)} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shellQuoted(json)}\n`,
    },
    {
      id: "python",
      label: "Python",
      hint: "Needs only Python.",
      text: `import json
import urllib.request

record = json.loads(${pythonText(json)})
request = urllib.request.Request(
    ${pythonText(url)},
    data=json.dumps(record).encode(),
    headers={"Content-Type": "application/json"},
)
print(urllib.request.urlopen(request).read().decode())
`,
    },
    {
      id: "javascript",
      label: "JavaScript",
      hint: "For Node.js 18 or later, and for web pages.",
      text: `const answer = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(${JSON.stringify(sample, null, 2).replace(/\n/g, "\n  ")}),
});
console.log(answer.status, await answer.text());
`,
    },
    {
      id: "github",
      label: "GitHub webhook",
      hint: "In the repository: Settings → Webhooks → Add webhook. The URL contains the secret, so leave GitHub's secret empty.",
      text: `Payload URL   ${url}\nContent type  application/json\nSecret        (empty)\nEvents        the ones that you want as rows\n`,
    },
  ];
}

/** Return a Python literal: JSON's form is valid, except for characters outside of the basic plane. */
const pythonText = (text: string): string => JSON.stringify(text);

function otlpSnippets(otlp: NonNullable<Source["otlp"]>): Snippet[] {
  const nanoseconds = `$(date +%s)000000000`;
  return [
    {
      id: "curl",
      label: "curl",
      text: `curl ${shellQuoted(`${otlp.url}/v1/logs`)} \\
  -H 'Content-Type: application/json' \\
  -d '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"'${nanoseconds}'",
       "severityText":"INFO","body":{"stringValue":"a first log record"}}]}]}]}'
`,
    },
    {
      id: "collector",
      label: "OTel Collector",
      text: `receivers:
  otlp:
    protocols:
      grpc:
      http:
exporters:
  otlphttp/stream:
    endpoint: ${otlp.baseUrl}
    headers:
      Authorization: Bearer ${otlp.secret}
service:
  pipelines:
    logs:
      receivers: [otlp]
      exporters: [otlphttp/stream]
    traces:
      receivers: [otlp]
      exporters: [otlphttp/stream]
    metrics:
      receivers: [otlp]
      exporters: [otlphttp/stream]
`,
    },
    {
      id: "environment",
      label: "SDK",
      hint: "Each OpenTelemetry SDK reads these variables.",
      text: `export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf
export OTEL_EXPORTER_OTLP_ENDPOINT=${shellQuoted(otlp.baseUrl)}
export OTEL_EXPORTER_OTLP_HEADERS=${shellQuoted(`Authorization=Bearer ${otlp.secret}`)}
`,
    },
  ];
}

export function snippets(source: Source, sample: unknown = SAMPLE): Snippet[] {
  if (source.http) return httpSnippets(source.http.url, sample);
  return source.otlp ? otlpSnippets(source.otlp) : [];
}
