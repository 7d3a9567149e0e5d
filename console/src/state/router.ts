/** The page named by the fragment of the address. */

import { computed, signal } from "@preact/signals";
import { startSession, takeFragment } from "./session";

export type Route =
  | { page: "overview" }
  | { page: "newSource" }
  | { page: "firstRow"; sourceId: string; sinkId: string }
  | { page: "tasks" }
  | { page: "deleted" }
  | { page: "source"; sourceId: string; tab: string }
  | { page: "newSink"; sourceId: string }
  | { page: "sink"; sourceId: string; sinkId: string; tab: string }
  | { page: "missing" };

// Take a token from the fragment before the rest is parsed as a page.
startSession();
const fragment = signal(location.hash);
addEventListener("hashchange", () => {
  takeFragment();
  fragment.value = location.hash;
});

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function parseRoute(hash: string): Route {
  const parts = hash.replace(/^#\/?/, "").split("?")[0]!.split("/").filter(Boolean).map(decoded);
  const [first, second, third, fourth, fifth] = parts;
  if (!first) return { page: "overview" };
  if (first === "new" && second && third) return { page: "firstRow", sourceId: second, sinkId: third };
  if (first === "new" || first === "tasks" || first === "deleted") {
    if (second) return { page: "missing" };
    return { page: first === "new" ? "newSource" : first };
  }
  if (first !== "sources" || !second) return { page: "missing" };
  if (third === "new-sink") return { page: "newSink", sourceId: second };
  if (third !== "sinks") return { page: "source", sourceId: second, tab: third ?? "" };
  return fourth ? { page: "sink", sourceId: second, sinkId: fourth, tab: fifth ?? "" } : { page: "missing" };
}

export const route = computed(() => parseRoute(fragment.value));

export const href = (...parts: string[]): string => `#/${parts.filter(Boolean).map(encodeURIComponent).join("/")}`;
export const sourceHref = (sourceId: string, tab = ""): string => href("sources", sourceId, tab);
export const sinkHref = (sourceId: string, sinkId: string, tab = ""): string =>
  href("sources", sourceId, "sinks", sinkId, tab);

export function go(to: string): void {
  location.hash = to;
}
