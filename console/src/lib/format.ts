/** Formats of numbers, sizes and times. */

const COUNT = new Intl.NumberFormat("en-GB");

export const count = (value: number): string => COUNT.format(Math.round(value));

/** Format a rate per second with few digits and a stable width for small numbers. */
export function rate(value: number): string {
  if (value === 0) return "0";
  if (value < 0.05) return "<0.1";
  if (value < 10) return value.toFixed(1);
  return count(value);
}

const SIZES = ["B", "KB", "MB", "GB", "TB", "PB"];

/** Format a size in the units of the settings and of the command line, in which 1 KB has 1024 bytes. */
export function bytes(value: number): string {
  let unit = 0;
  while (value >= 1024 && unit < SIZES.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1).replace(/\.0$/, "")} ${SIZES[unit]}`;
}

/** Format a duration in milliseconds. */
export function span(milliseconds: number): string {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 1) return `${Math.round(Math.max(0, milliseconds))} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

export function ago(milliseconds: number): string {
  return milliseconds < 1000 ? "now" : `${shortSpan(milliseconds)} ago`;
}

export function shortSpan(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** Format a time in the user's time zone, without the date if it is today. */
export function localTime(at: Date, today: Date): string {
  const time = at.toLocaleTimeString("en-GB", { hour12: false });
  if (at.toDateString() === today.toDateString()) return time;
  return `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" })}, ${time}`;
}

export const utcTime = (at: Date): string => `${at.toISOString().replace("T", " ").replace(/\.\d+Z$/, "")} UTC`;

/** Parse a setting's duration ("1m30s") to milliseconds; `null` if it is invalid. */
export function durationMs(text: unknown): number | null {
  if (typeof text !== "string" || !/^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h|d))+$/.test(text)) return null;
  const units: Record<string, number> = { ns: 1e-6, us: 1e-3, "µs": 1e-3, ms: 1, s: 1e3, m: 6e4, h: 36e5, d: 864e5 };
  let total = 0;
  for (const [, value, , unit] of text.matchAll(/(\d+(\.\d+)?)(ns|us|µs|ms|s|m|h|d)/g)) total += Number(value) * units[unit!]!;
  return total;
}

/** Parse a setting's size ("10MB") to bytes; `null` if it is invalid. */
export function sizeBytes(text: unknown): number | null {
  const found = typeof text === "string" ? /^(\d+(?:\.\d+)?)\s*([KMGTP]?)B?$/i.exec(text) : null;
  if (!found) return null;
  return Number(found[1]) * 1024 ** " KMGTP".indexOf(found[2]!.toUpperCase() || " ");
}

const RULES: Record<string, (limit: string) => string> = { min: plainLimit, max: plainLimit, minDuration: same, maxDuration: same, minBytes: same, maxBytes: same };

function plainLimit(limit: string): string {
  return /^\d+$/.test(limit) ? count(Number(limit)) : limit;
}

function same(limit: string): string {
  return limit;
}

/** Return the words of which one must be chosen; empty if any value is possible. */
export function choicesOf(validation: string | undefined): string[] {
  const rule = (validation ?? "").split(",").find((each) => each.startsWith("oneof="));
  return rule ? rule.slice("oneof=".length).split(" ") : [];
}

/** Rules that are a property of the text. */
const FORMS: Record<string, string> = { networks: "IP addresses or networks", url: "a URL", host_or_url: "a host or a URL" };

/** Describe the rules of a setting, such as "required,min=1,maxDuration=30m". */
export function rulesText(validation: string | undefined): string {
  const limits = { min: "", max: "" };
  const others: string[] = [];
  for (const rule of (validation ?? "").split(",")) {
    const [name = "", limit = ""] = rule.split("=");
    const write = RULES[name];
    if (write && limit) limits[name.startsWith("min") ? "min" : "max"] = write(limit);
    else if (name === "oneof") others.push(`one of ${limit.split(" ").join(", ")}`);
    else if (name === "gtefield") others.push(`not less than ${limit}`);
    else if (rule && rule !== "required") others.push(FORMS[rule] ?? rule);
  }
  const { min, max } = limits;
  const range = min && max ? `${min} to ${max}` : min ? `at least ${min}` : max ? `at most ${max}` : "";
  return [range, ...others].filter(Boolean).join(", ");
}
