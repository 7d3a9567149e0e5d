import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Unreachable } from "../api/client";
import { Repeats } from "../lib/repeats";
import { answers } from "../state/connection";

export interface Loaded<T> {
  data: T | null;
  error: unknown;
  isLoading: boolean;
  reload: () => void;
}

/** How long an unanswered read keeps the next one waiting. */
const GIVEN_UP_MS = 30_000;

/** Return a number that changes when the call with this *key* is to be made again, because it couldn't reach the API.
 *
 * The second value takes the error of each call, `null` after a success.
 */
export function useRepeats(key: string): [number, (error: unknown) => void] {
  const repeats = useMemo(() => new Repeats(), [key]);
  const [round, setRound] = useState(0);
  const [failure, setFailure] = useState<unknown>(null);
  const now = answers.value;
  useEffect(() => {
    if (repeats.isDue(now)) setRound((old) => old + 1);
  }, [repeats, now, failure]);
  const ended = (error: unknown) => {
    if (error instanceof Unreachable) repeats.fails(answers.peek());
    else repeats.succeeds();
    setFailure(error);
  };
  return [round, ended];
}

/** Return the result of *read*, which is called again when *key* changes. The previous result stays until then.
 *
 * A reload waits for the end of the previous one. Otherwise a page that reloads faster than the API answers would
 * never show an answer. One that has no answer for `GIVEN_UP_MS` is given up: its connection may be dead. What failed
 * because the API couldn't be reached is read again when it answers; see `Repeats`.
 */
export function useLoaded<T>(key: string, read: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<{ key: string; data: T | null; error: unknown; isLoading: boolean }>({
    key,
    data: null,
    error: null,
    isLoading: true,
  });
  const [round, setRound] = useState(0);
  const [repeat, ended] = useRepeats(key);
  const isBusy = useRef(false);
  const begunAt = useRef(0);
  const isAskedAgain = useRef(false);
  useEffect(() => {
    const abort = new AbortController();
    isBusy.current = true;
    begunAt.current = performance.now();
    isAskedAgain.current = false;
    setState((old) => ({ key, data: old.key === key ? old.data : null, error: old.key === key ? old.error : null, isLoading: true }));
    const end = (data: (old: T | null) => T | null, error: unknown) => {
      if (abort.signal.aborted) return;
      isBusy.current = false;
      ended(error);
      setState((old) => ({ key, data: data(old.key === key ? old.data : null), error, isLoading: false }));
      if (isAskedAgain.current) setRound((old) => old + 1);
    };
    read(abort.signal).then(
      (data) => end(() => data, null),
      (error: unknown) => end((old) => old, error),
    );
    return () => abort.abort();
  }, [key, round, repeat]);
  const reload = () => {
    if (isBusy.current && performance.now() - begunAt.current < GIVEN_UP_MS) isAskedAgain.current = true;
    else setRound((old) => old + 1);
  };
  return { data: state.data, error: state.error, isLoading: state.isLoading, reload };
}

/** Call *act* every *milliseconds* while the page is visible. */
export function useInterval(act: () => void, milliseconds: number): void {
  const latest = useRef(act);
  latest.current = act;
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && latest.current(), milliseconds);
    return () => clearInterval(timer);
  }, [milliseconds]);
}

/** Return *value* once it hasn't changed for *milliseconds*. */
export function useSettled<T>(value: T, milliseconds: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), milliseconds);
    return () => clearTimeout(timer);
  }, [value, milliseconds]);
  return settled;
}

/** The title of the window, and the first heading for screen readers. */
export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · Stream`;
  }, [title]);
}
