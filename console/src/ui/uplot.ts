import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { count } from "../lib/format";

/** Steps of the axis of rates: they are written without a fraction, so none is a part of a record. */
const STEPS = Array.from({ length: 9 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

const color = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Draw records a second, accepted and rejected, over the time of day. */
export function makeChart(element: HTMLElement, data: [number[], (number | null)[], (number | null)[]]): uPlot {
  const axis = {
    stroke: () => color("--quiet"),
    grid: { stroke: () => color("--line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
  };
  return new uPlot(
    {
      width: element.clientWidth,
      height: element.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { show: false } },
      scales: { y: { range: (_chart, _least, most) => [0, Math.max(1, (most ?? 0) * 1.1)] } },
      axes: [
        { ...axis, size: 28, values: (_chart, ticks) => ticks.map((each) => new Date(each * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })) },
        { ...axis, size: 56, incrs: STEPS, values: (_chart, ticks) => ticks.map((each) => count(each)) },
      ],
      series: [
        {},
        { label: "accepted", stroke: () => color("--accent"), fill: () => color("--accent-faint"), width: 1.5, points: { show: false } },
        { label: "rejected", stroke: () => color("--bad"), width: 1.5, points: { show: false } },
      ],
    },
    data,
    element,
  );
}
