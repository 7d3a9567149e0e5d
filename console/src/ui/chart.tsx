import { useEffect, useRef } from "preact/hooks";
import type uPlot from "uplot";

type Drawn = [number[], (number | null)[], (number | null)[]];

/** A chart of the newest rates. Its library is loaded when the first chart is shown. */
export function RateChart(props: { accepted: number[]; refused: number[]; known: number; end: number; label: string }) {
  const { accepted, refused, known, end, label } = props;
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const latest = useRef<Drawn>([[], [], []]);
  // Values from before the page was opened are unknown, not zero.
  const drawn = (values: number[]) => values.map((value, index) => (index < values.length - known ? null : value));
  latest.current = [accepted.map((_, index) => end - accepted.length + 1 + index), drawn(accepted), drawn(refused)];
  useEffect(() => {
    let isGone = false;
    let observer: ResizeObserver | undefined;
    void import("./uplot").then(({ makeChart }) => {
      const element = place.current;
      if (isGone || !element) return;
      const made = (chart.current = makeChart(element, latest.current));
      observer = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: element.clientHeight }));
      observer.observe(element);
    });
    const theme = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => chart.current?.redraw();
    theme.addEventListener("change", redraw);
    return () => {
      isGone = true;
      theme.removeEventListener("change", redraw);
      observer?.disconnect();
      chart.current?.destroy();
      chart.current = null;
    };
  }, []);
  useEffect(() => {
    chart.current?.setData(latest.current);
  }, [end]);
  return <div class="chart" ref={place} role="img" aria-label={label} />;
}
