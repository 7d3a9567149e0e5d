/** What the token of the session may do. */

import { signal } from "@preact/signals";
import { get, isMissing } from "../api/client";
import { session } from "./session";

export type Right = "read" | "write" | "tail" | "admin";

export interface CurrentToken {
  tokenId?: string;
  name: string;
  rights: Right[];
}

/** `null` until it is known. */
export const token = signal<CurrentToken | null>(null);

/** Ask the API for the rights of the token, once a session. */
export async function learnRights(): Promise<void> {
  if (token.peek()) return;
  const asked = session.peek()?.token;
  let found: CurrentToken;
  try {
    found = await get<CurrentToken>("/v1/tokens/current");
  } catch (error) {
    if (!isMissing(error)) throw error;
    // An older API: it doesn't tell, and refuses what the token may not do.
    found = { name: "", rights: ["read", "write", "tail", "admin"] };
  }
  // Somebody may have signed in with another token meanwhile: these aren't its rights.
  if (session.peek()?.token === asked) token.value = found;
}

export const may = (right: Right): boolean => token.value?.rights.includes(right) ?? false;

let signIns = 0;
session.subscribe(() => {
  signIns++;
});

/** Return what only this token has: its id, or the number of the session if the API is older and shows no id.
 *
 * Its name isn't: two people may have tokens of one name.
 */
export const whose = (): string => token.value?.tokenId ?? `session ${signIns}`;

/** Return why an action that needs *right* is not offered; `null` if the token has the right. */
export const lack = (right: Right | undefined): string | null =>
  right === undefined || may(right) ? null : `Your token lacks the right “${right}”.`;
