import { useEffect, useRef, useState } from "preact/hooks";

export interface Loaded<T> {
  data: T | null;
  error: unknown;
  isLoading: boolean;
  reload: () => void;
}

/** What *read* returns, read again whenever *key* changes. What was shown stays until then. */
export function useLoaded<T>(key: string, read: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<{ key: string; data: T | null; error: unknown; isLoading: boolean }>({
    key,
    data: null,
    error: null,
    isLoading: true,
  });
  const [round, setRound] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    setState((old) => ({ key, data: old.key === key ? old.data : null, error: old.key === key ? old.error : null, isLoading: true }));
    read(abort.signal).then(
      (data) => !abort.signal.aborted && setState({ key, data, error: null, isLoading: false }),
      (error: unknown) =>
        !abort.signal.aborted && setState((old) => ({ key, data: old.key === key ? old.data : null, error, isLoading: false })),
    );
    return () => abort.abort();
  }, [key, round]);
  return { data: state.data, error: state.error, isLoading: state.isLoading, reload: () => setRound((old) => old + 1) };
}

/** Calls *act* every *milliseconds* while the page is seen. */
export function useInterval(act: () => void, milliseconds: number): void {
  const latest = useRef(act);
  latest.current = act;
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && latest.current(), milliseconds);
    return () => clearInterval(timer);
  }, [milliseconds]);
}

/** *value*, once it has been the same for *milliseconds*. */
export function useSettled<T>(value: T, milliseconds: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), milliseconds);
    return () => clearTimeout(timer);
  }, [value, milliseconds]);
  return settled;
}

/** The title of the window, and a heading for screen readers to begin with. */
export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · Stream`;
  }, [title]);
}
