/** Differences between two texts, line by line. */

export interface Line {
  kind: "same" | "added" | "removed";
  text: string;
}

const MAX_LINES = 1500;
/** The number of unchanged lines that are shown on each side of a change. */
const CONTEXT = 3;

/** Return *lines* without those that are far from each change; a line says how many are left out. */
export function nearChanges(lines: Line[]): (Line | { kind: "left"; text: string })[] {
  const isNear = new Array<boolean>(lines.length).fill(false);
  lines.forEach((line, place) => line.kind !== "same" && isNear.fill(true, Math.max(0, place - CONTEXT), place + CONTEXT + 1));
  const found: (Line | { kind: "left"; text: string })[] = [];
  for (let place = 0; place < lines.length; ) {
    let end = place;
    while (end < lines.length && !isNear[end]) end++;
    if (end - place > 1) found.push({ kind: "left", text: `… ${end - place} lines are the same` });
    else if (end > place) found.push(lines[place]!);
    if (end < lines.length) found.push(lines[end]!);
    place = end + 1;
  }
  return found;
}

/** Return the shortest list of changes that turns *before* into *after*. */
export function diff(before: string, after: string): Line[] {
  const lined = (text: string) => (text === "" ? [] : text.split("\n").slice(0, MAX_LINES));
  const a = lined(before);
  const b = lined(after);
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      longest[i * width + j] =
        a[i] === b[j] ? longest[(i + 1) * width + j + 1]! + 1 : Math.max(longest[(i + 1) * width + j]!, longest[i * width + j + 1]!);
  const lines: Line[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push({ kind: "same", text: a[i++]! });
      j++;
    } else if (i < a.length && (j >= b.length || longest[(i + 1) * width + j]! >= longest[i * width + j + 1]!)) {
      lines.push({ kind: "removed", text: a[i++]! });
    } else lines.push({ kind: "added", text: b[j++]! });
  }
  return lines;
}
