/** Mappings that aren't saved yet: they outlive a look at another page, and a token that ends meanwhile. */

import type { Sink, Source } from "../api/types";
import type { Draft } from "../lib/drafts";
import { whose } from "./rights";
import { ended, session } from "./session";

const drafts = new Map<string, Draft>();
session.subscribe((current) => {
  if (!current && !ended.peek()) drafts.clear();
});

/** Return the key of the draft that the user of this session has for a sink. */
export const draftKey = (source: Pick<Source, "projectId" | "branchId">, sink: Pick<Sink, "sourceId" | "sinkId">): string =>
  JSON.stringify([whose(), source.projectId, source.branchId, sink.sourceId, sink.sinkId]);

export const draftOf = (key: string): Draft | undefined => drafts.get(key);

/** Keep a draft, or none if it is `null`. */
export function keepDraft(key: string, draft: Draft | null): void {
  if (draft) drafts.set(key, draft);
  else drafts.delete(key);
}
