/** Server-sent events over `fetch`: unlike `EventSource`, it sends the token as a header. */

export interface SseEvent {
  event: string;
  data: string;
  id: string;
}

const MAX_EVENT_CHARS = 16 * 1024 * 1024;

/** Splits chunks of text into events; an incomplete event waits for the next chunk. */
export class SseParser {
  private rest = "";
  private event = "";
  private data: string[] = [];
  private size = 0;
  id = "";

  push(chunk: string): SseEvent[] {
    const found: SseEvent[] = [];
    const lines = (this.rest + chunk).split("\n");
    this.rest = lines.pop() ?? "";
    if (this.rest.length + this.size > MAX_EVENT_CHARS) throw new Error("an event is too large");
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (this.data.length) found.push({ event: this.event || "message", data: this.data.join("\n"), id: this.id });
        this.event = "";
        this.data = [];
        this.size = 0;
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
      if (name === "event") this.event = value;
      else if (name === "id") this.id = value;
      else if (name === "data") {
        this.data.push(value);
        this.size += value.length;
      }
    }
    return found;
  }
}

/** Call *take* with each event of *answer* until it ends. */
export async function readEvents(answer: Response, take: (event: SseEvent) => void): Promise<void> {
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  const parser = new SseParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      for (const event of parser.push(value)) take(event);
    }
  } finally {
    // If *take* throws, the rest is unread: without this the connection would stay open.
    await reader.cancel().catch(() => undefined);
  }
}
