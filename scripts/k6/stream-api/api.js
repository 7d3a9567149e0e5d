// The part of Stream's API that the benchmark uses. Each change is a task, which is waited for.
import http from "k6/http";
import { sleep } from "k6";

const TASK_SECONDS = 180;

export class Api {
  constructor(host, token) {
    this.host = host.replace(/\/+$/, "");
    this.params = {
      headers: { "Content-Type": "application/json", "X-StorageApi-Token": token },
      responseType: "text",
    };
  }

  call(method, path, body) {
    const url = path.startsWith("http") ? path : `${this.host}/v1/branches/default${path}`;
    const answer = http.request(method, url, body ? JSON.stringify(body) : null, this.params);
    if (answer.status < 200 || answer.status > 299) {
      throw new Error(`${method} ${url}: ${answer.status} ${answer.body || answer.error}`);
    }
    return answer.json();
  }

  change(method, path, body) {
    const task = this.call(method, path, body);
    for (let second = 0; second < TASK_SECONDS; second++) {
      const state = this.call("GET", task.url);
      if (state.isFinished) {
        if (state.error) throw new Error(`${method} ${path}: ${state.error}`);
        return;
      }
      sleep(1);
    }
    throw new Error(`${method} ${path}: not finished in ${TASK_SECONDS} seconds`);
  }

  createSource(id) {
    this.change("POST", "/sources", { sourceId: id, type: "http", name: id });
  }

  createSink(id, columns) {
    const table = { type: "keboola", tableId: `in.c-${id}.records`, mapping: { columns } };
    this.change("POST", `/sources/${id}/sinks`, { type: "table", name: "records", table });
  }

  // The values of the source's settings by key.
  settings(id) {
    return Object.fromEntries(this.call("GET", `/sources/${id}/settings`).settings.map((s) => [s.key, s.value]));
  }

  changeSetting(id, key, value) {
    this.change("PATCH", `/sources/${id}/settings`, { settings: [{ key, value }] });
  }

  // Where records are sent; *host* stands for its scheme, host and port, if given.
  sourceUrl(id, host) {
    const url = this.call("GET", `/sources/${id}`).http.url;
    return host ? url.replace(/^https?:\/\/[^/]+/, host.replace(/\/+$/, "")) : url;
  }

  deleteSource(id) {
    this.change("DELETE", `/sources/${id}`);
  }
}
