/** Ids of sources and sinks, made from names as the API makes them: `stream/definition/slug.py`. */

const MAX_ID_LENGTH = 48;

/** Return *text* in lower-case words joined by dashes, without accents; may be empty. */
export const slug = (text: string): string =>
  text
    .replace(/[A-Z]+/g, (capitals) => `-${capitals}`)
    .replace(/[^a-zA-Z0-9\u00e1-\u017e\u00c1-\u017d]+/g, "-")
    .normalize("NFD")
    .replace(/\p{Mn}/gu, "")
    .normalize("NFC")
    .replace(/^-+|-+$/g, "")
    .toLowerCase();

/** Return the id that the API makes from *name*; empty if it has no letter of an id, so that the API makes a number of it. */
export const idOf = (name: string): string => slug(name).slice(0, MAX_ID_LENGTH).replace(/^-+|-+$/g, "");
