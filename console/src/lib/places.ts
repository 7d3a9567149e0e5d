/** Destinations of a sink's rows, and the parts of a table's name for each target. */

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

/** The parts of a table's name besides its connection, in order. */
const PARTS: Record<string, readonly Part[]> = {
  postgres: ["schema", "table"],
  iceberg: ["namespace", "table"],
  parquet: ["path"],
};

export const partsOf = (type: string): readonly Part[] => PARTS[type] ?? ["schema", "table"];

/** Return the default destination for a source with this id, which the user can edit. */
export const firstPlace = (id: string): Place => ({
  type: "keboola",
  tableId: `in.c-${id || "stream"}.events`,
  connection: "",
  schema: "",
  namespace: "stream",
  table: (id || "events").replace(/-/g, "_"),
  path: id || "events",
});

/** Return the table in the API's form. */
export function tableOf(place: Place, columns: Column[], hasTypes: boolean): Record<string, unknown> {
  const mapping = { columns: columns.map((each) => cleaned(each, hasTypes)) };
  if (!hasTypes) return { type: place.type, tableId: place.tableId, mapping };
  const named = Object.fromEntries(partsOf(place.type).flatMap((part) => (place[part] ? [[part, place[part]]] : [])));
  return { type: place.type, connection: place.connection, ...named, mapping };
}

/** Return the destination as one line of text. */
export const placeText = (table: Table): string =>
  table.tableId ??
  [table.connection, ...partsOf(table.type).map((part) => table[part])].filter(Boolean).join(table.type === "parquet" ? "/" : ".");
