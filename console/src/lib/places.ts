/** Where the rows of a sink go, and what each kind of table needs to be named. */

import type { Column, Table } from "../api/types";
import { cleaned } from "./columns";

export interface Place {
  type: string;
  tableId: string;
  connection: string;
  schema: string;
  namespace: string;
  table: string;
  path: string;
}

type Part = "schema" | "namespace" | "table" | "path";

/** What a kind of table is named by, beside its connection, in the order of its name. */
const PARTS: Record<string, readonly Part[]> = {
  postgres: ["schema", "table"],
  iceberg: ["namespace", "table"],
  parquet: ["path"],
};

export const partsOf = (type: string): readonly Part[] => PARTS[type] ?? ["schema", "table"];

/** A place for a source with this id, of which the reader changes what is not right. */
export const firstPlace = (id: string): Place => ({
  type: "keboola",
  tableId: `in.c-${id || "stream"}.events`,
  connection: "",
  schema: "",
  namespace: "stream",
  table: (id || "events").replace(/-/g, "_"),
  path: id || "events",
});

/** The table as the API takes it. */
export function tableOf(place: Place, columns: Column[], hasTypes: boolean): Record<string, unknown> {
  const mapping = { columns: columns.map((each) => cleaned(each, hasTypes)) };
  if (!hasTypes) return { type: place.type, tableId: place.tableId, mapping };
  const named = Object.fromEntries(partsOf(place.type).flatMap((part) => (place[part] ? [[part, place[part]]] : [])));
  return { type: place.type, connection: place.connection, ...named, mapping };
}

/** The place of a table in one line, for people. */
export const placeText = (table: Table): string =>
  table.tableId ??
  [table.connection, ...partsOf(table.type).map((part) => table[part])].filter(Boolean).join(table.type === "parquet" ? "/" : ".");
