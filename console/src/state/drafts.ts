/** Mappings that aren't saved yet: they outlive a look at another page, and a token that ends meanwhile. */

import type { Sink, Source } from "../api/types";
import type { Draft } from "../lib/drafts";
import { token, whose } from "./rights";
import { ended, session } from "./session";

/** The place of a draft: a sink, and the token that has edited it.
 *
 * `name` is the name of the token. A token that replaces an expired one has another id, but usually the same name.
 */
export interface DraftKey {
  sink: string;
  token: string;
  name: string;
}

const drafts = new Map<string, { key: DraftKey; draft: Draft }>();
session.subscribe((current) => {
  if (!current && !ended.peek()) drafts.clear();
});

const textOf = (key: DraftKey): string => JSON.stringify([key.sink, key.token]);

/** Return the key of the draft that the token of this session has for a sink. */
export const draftKey = (source: Pick<Source, "projectId" | "branchId">, sink: Pick<Sink, "sourceId" | "sinkId">): DraftKey => ({
  sink: JSON.stringify([source.projectId, source.branchId, sink.sourceId, sink.sinkId]),
  token: whose(),
  name: token.value?.name ?? "",
});

export const draftOf = (key: DraftKey): Draft | undefined => drafts.get(textOf(key))?.draft;

/** Keep a draft, or none if it is `null`. */
export function keepDraft(key: DraftKey, draft: Draft | null): void {
  if (draft) drafts.set(textOf(key), { key, draft });
  else drafts.delete(textOf(key));
}

/** Return the draft of the same sink that was begun with another token of the same name, and its key.
 *
 * It may belong to the same person or to somebody else, so a page asks before it shows it.
 */
export function namesake(key: DraftKey): { key: DraftKey; draft: Draft } | undefined {
  return [...drafts.values()].find(({ key: other }) => key.name && other.sink === key.sink && other.name === key.name && other.token !== key.token);
}
