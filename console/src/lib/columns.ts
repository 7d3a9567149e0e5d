/** Columns made from a sample record. */

import type { Column } from "../api/types";

const MAX_DEPTH = 3;
export const MAX_COLUMNS = 100;
const NAME_CHARS = 64;

const TIME = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)$/;
const DATE = /^\d{4}-\d\d-\d\d$/;
const UUID = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i;

/** Return the type of a table's column for *value*. */
export function dataTypeOf(value: unknown): string {
  if (typeof value === "boolean") return "boolean";
  if (typeof value === "number") return Number.isSafeInteger(value) ? "integer" : "double";
  if (typeof value === "string") {
    if (TIME.test(value)) return "timestamp";
    if (DATE.test(value)) return "date";
    return UUID.test(value) ? "uuid" : "string";
  }
  return value === null ? "string" : "json";
}

/** Return a name that is valid in every table and isn't in *taken*. */
export function columnName(path: string, taken: Set<string>): string {
  const plain = path.normalize("NFKD").replace(/[^A-Za-z0-9_]+/g, "_").replace(/^_+|_+$/g, "").slice(0, NAME_CHARS) || "column";
  let name = plain;
  for (let number = 2; taken.has(name.toLowerCase()); number++) name = `${plain}_${number}`;
  taken.add(name.toLowerCase());
  return name;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Dots and brackets separate the parts of a path, so a key with one of them has no path. */
const hasPath = (key: string): boolean => key !== "" && !/[.[\]*]/.test(key) && !/^[$@#/]/.test(key);

function members(value: Record<string, unknown>, prefix: string, depth: number, found: [string, unknown][]): void {
  for (const [key, member] of Object.entries(value)) {
    if (!hasPath(key)) continue;
    const path = prefix ? `${prefix}.${key}` : key;
    if (isObject(member) && depth < MAX_DEPTH && Object.keys(member).length > 0) members(member, path, depth + 1, found);
    else found.push([path, member]);
  }
}

/** Return a column for each member of *sample* without one. */
export function columnsFor(sample: unknown, present: Column[], hasTypes: boolean): Column[] {
  if (!isObject(sample)) return [];
  const found: [string, unknown][] = [];
  members(sample, "", 1, found);
  const paths = new Set(present.map((column) => column.path));
  const taken = new Set(present.map((column) => column.name.toLowerCase()));
  const room = Math.max(0, MAX_COLUMNS - present.length);
  return found
    .filter(([path]) => !paths.has(path))
    .slice(0, room)
    .map(([path, value]) => {
      const column: Column = { type: "path", name: columnName(path, taken), path };
      const dataType = dataTypeOf(value);
      if (typeof value === "string" || (hasTypes && dataType !== "json")) column.rawString = true;
      if (hasTypes) {
        column.dataType = dataType;
        if (value === null) column.nullable = true;
      }
      return column;
    });
}

/** Return the members of *column* that its type has, in the API's order. */
export function cleaned(column: Column, hasTypes: boolean): Column {
  const clean: Column = { type: column.type, name: column.name.trim() };
  if (column.primaryKey) clean.primaryKey = true;
  if (hasTypes && column.dataType) clean.dataType = column.dataType;
  if (hasTypes && column.nullable) clean.nullable = true;
  if (column.type === "path") {
    clean.path = column.path ?? "";
    if (column.defaultValue !== undefined) clean.defaultValue = column.defaultValue;
    clean.rawString = column.rawString ?? false;
  } else if (column.type === "template") {
    clean.rawString = column.rawString ?? false;
    clean.template = { language: "jsonnet", content: column.template?.content ?? "" };
  }
  return clean;
}

/** Return the number of the column in the parameter of an error; `null` if there is none. */
export function columnOf(param: string | undefined): number | null {
  const found = /columns\[(\d+)\]/.exec(param ?? "");
  return found ? Number(found[1]) : null;
}
