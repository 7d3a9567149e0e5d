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

export interface Connection {
  name: string;
  type: string;
  isAvailable: boolean | null;
  message?: string;
}

/** Where sinks of the project can put their rows. */
export interface Targets {
  connections: Connection[];
  tableTypes: string[];
}

/** Return the targets in an answer; that of an older API doesn't list the types of tables. */
export function targetsOf(answer: { connections: Connection[]; tableTypes?: string[] }): Targets {
  const { connections, tableTypes = [...connections.map((each) => each.type), "keboola"] } = answer;
  return { connections, tableTypes };
}

/** Return the types of tables that can be chosen, those of declared connections first. */
export function typesOf({ connections, tableTypes }: Targets): string[] {
  const declared = connections.map((each) => each.type).filter((type) => tableTypes.includes(type));
  return [...new Set([...declared, ...tableTypes])];
}

/** Return the connection that is chosen first: one that answers, if there is any. */
export function firstConnection({ connections }: Targets, type: string): string {
  const named = connections.filter((each) => each.type === type);
  return (named.find((each) => each.isAvailable !== false) ?? named[0])?.name ?? "";
}

/** Return the type of table that is chosen first; empty if there is none. */
function firstType(targets: Targets): string {
  const { connections, tableTypes } = targets;
  return connections.find((each) => each.isAvailable !== false && tableTypes.includes(each.type))?.type ?? typesOf(targets)[0] ?? "";
}

/** Return the default destination for a source with this id, which the user can edit. */
export function firstPlace(id: string, targets: Targets): Place {
  // An id may have letters that names of tables don't have, such as ß.
  const plain = id.replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
  return {
    type: firstType(targets),
    tableId: `in.c-${plain || "stream"}.events`,
    connection: firstConnection(targets, firstType(targets)),
    schema: "",
    namespace: "stream",
    table: (plain || "events").replace(/-/g, "_"),
    path: plain || "events",
  };
}

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
