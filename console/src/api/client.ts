/** Calls of the API with the token of the session. */

import { answered, doubt } from "../state/connection";
import { endSession, learnTime, session } from "../state/session";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details: { param?: string; detail?: string; hint?: string; exceptionId?: string } = {},
    readonly faults: { message: string; param?: string }[] = [],
  ) {
    super(message);
  }
}

/** The API can't be reached, or the answer isn't from the API. */
export class Unreachable extends Error {}

export interface Options {
  body?: unknown;
  raw?: { body: BodyInit; headers: Record<string, string> };
  signal?: AbortSignal;
}

const CODE_PREFIX = "stream.api.";

async function refusal(answer: Response): Promise<ApiError> {
  let plain: Record<string, unknown> = {};
  try {
    plain = (await answer.json()) as Record<string, unknown>;
  } catch {
    // A proxy's page: only its status is useful.
  }
  const text = (name: string) => (typeof plain[name] === "string" ? (plain[name] as string) : undefined);
  const code = (text("error") ?? `http${answer.status}`).replace(CODE_PREFIX, "");
  const faults = Array.isArray(plain.errors) ? (plain.errors as { message: string; param?: string }[]) : [];
  const details = {
    param: text("param"),
    detail: text("detail"),
    hint: text("hint"),
    exceptionId: text("exceptionId"),
  };
  return new ApiError(answer.status, code, text("message") ?? `The API answers ${answer.status}.`, details, faults);
}

/** Return the answer to a call. Throws an error unless it is a success. */
export async function request(method: string, path: string, options: Options = {}): Promise<Response> {
  const { token } = session.value ?? { token: "" };
  const headers: Record<string, string> = { ...options.raw?.headers };
  if (token) headers["X-StorageApi-Token"] = token;
  let body: BodyInit | undefined = options.raw?.body;
  if (options.body !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(options.body);
  }
  let answer: Response;
  try {
    answer = await fetch(path, { method, headers, body, signal: options.signal, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    doubt();
    throw new Unreachable("The API can't be reached.");
  }
  if ([502, 504].includes(answer.status)) {
    doubt();
    throw new Unreachable(`A proxy answers ${answer.status} for the API.`);
  }
  learnTime(answer.headers.get("Date"));
  if (answer.ok) {
    answered();
    return answer;
  }
  const error = await refusal(answer);
  // The token was accepted before, so it has expired or was revoked.
  if (answer.status === 401 && session.value?.token === token) endSession(error.message);
  throw error;
}

export async function call<T>(method: string, path: string, options: Options = {}): Promise<T> {
  const answer = await request(method, path, options);
  const text = await answer.text();
  return (text ? JSON.parse(text) : null) as T;
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => call<T>("GET", path, { signal });

/** Return a path below the branch of the session, with its parts encoded. */
export function inBranch(...parts: (string | number)[]): string {
  const branch = session.value?.branch ?? "default";
  return ["/v1/branches", encodeURIComponent(branch), ...parts.map((part) => encodeURIComponent(String(part)))].join("/");
}

export const sourcePath = (sourceId: string, ...rest: (string | number)[]): string =>
  inBranch("sources", sourceId, ...rest);

export const sinkPath = (sourceId: string, sinkId: string, ...rest: (string | number)[]): string =>
  inBranch("sources", sourceId, "sinks", sinkId, ...rest);

export const isMissing = (error: unknown): boolean =>
  error instanceof ApiError && (error.status === 404 || error.status === 405);

/** Return the text of an error for the user. */
export function errorText(error: unknown): string {
  if (error instanceof ApiError) {
    const { detail, hint, exceptionId } = error.details;
    const known = [error.message, detail, hint && `Did you mean ${hint}?`, exceptionId && `Id of the error: ${exceptionId}.`];
    return known.filter(Boolean).join(" ");
  }
  return error instanceof Error ? error.message : String(error);
}
