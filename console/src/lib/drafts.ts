/** Edits of a mapping that aren't saved yet, beside changes of the same mapping by others. */

import type { Column } from "../api/types";
import { cleaned } from "./columns";

export interface Draft {
  columns: Column[];
  /** The columns of the sink that were edited. */
  base: Column[];
}

/** Return whether the API would store both alike.
 *
 * :param hasTypes: whether columns of the table have types.
 */
export function isSame(one: Column[], other: Column[], hasTypes: boolean): boolean {
  const plain = (columns: Column[]) => JSON.stringify(columns.map((each) => cleaned(each, hasTypes)));
  return one === other || plain(one) === plain(other);
}

export const isEdited = ({ columns, base }: Draft, hasTypes: boolean): boolean => !isSame(columns, base, hasTypes);

/** Return the draft for a sink that has the columns *current* now.
 *
 * Without edits it follows the sink. Edits that somebody else has saved, too, are none any more.
 */
export function followed(draft: Draft, current: Column[], hasTypes: boolean): Draft {
  if (isSame(draft.base, current, hasTypes)) return draft;
  if (isEdited(draft, hasTypes) && !isSame(draft.columns, current, hasTypes)) return draft;
  return { columns: current, base: current };
}

/** Return whether the sink has other columns than those that were edited. */
export const isOvertaken = (draft: Draft, current: Column[], hasTypes: boolean): boolean =>
  isEdited(draft, hasTypes) && !isSame(draft.base, current, hasTypes);
