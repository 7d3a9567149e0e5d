/** The session: its token, and the clock of the API. */

import { signal } from "@preact/signals";

export interface Session {
  token: string;
  branch: string;
}

const KEY = "stream.session";

function stored(): Session | null {
  try {
    const plain = JSON.parse(sessionStorage.getItem(KEY) ?? "null") as Partial<Session> | null;
    return plain?.token ? { token: plain.token, branch: plain.branch || "default" } : null;
  } catch {
    return null;
  }
}

/** Take the token from the fragment and remove it from the address. */
function fromFragment(): Session | null {
  const found = new URLSearchParams(location.hash.replace(/^#\/?/, ""));
  const token = found.get("token");
  if (!token) return null;
  history.replaceState(null, "", location.pathname + location.search + "#/");
  return { token, branch: found.get("branch") || "default" };
}

export const session = signal<Session | null>(null);
/** Reason for the end of the session, for the sign-in page. */
export const ended = signal("");
/** Offset of this machine's clock to the API's, in milliseconds; positive if it is ahead. */
export const clockAhead = signal(0);

/** Sign in with the token in the fragment, if there is one. */
export function takeFragment(): void {
  const fresh = fromFragment();
  if (fresh) signIn(fresh);
}

export function startSession(): void {
  session.value = stored();
  takeFragment();
}

export function signIn(next: Session): void {
  sessionStorage.setItem(KEY, JSON.stringify(next));
  ended.value = "";
  session.value = next;
}

export function endSession(reason = ""): void {
  sessionStorage.removeItem(KEY);
  ended.value = reason;
  session.value = null;
}

const TOLERATED_MS = 5_000;

/** Update the clock offset from an answer. Small differences are network latency. */
export function learnTime(text: string | null): void {
  const time = text ? Date.parse(text) : NaN;
  if (Number.isNaN(time)) return;
  const ahead = Date.now() - time;
  const next = Math.abs(ahead) < TOLERATED_MS ? 0 : ahead;
  if (Math.abs(next - clockAhead.peek()) > 2_000) clockAhead.value = next;
}

/** The API's time, in milliseconds since the epoch. */
export const now = (): number => Date.now() - clockAhead.peek();
