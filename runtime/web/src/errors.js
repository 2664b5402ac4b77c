// What edgeae throws on purpose.

/** Base of every error that edgeae throws on purpose: one line, which file or argument, what is wrong, what to do. */
export class EdgeaeError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}
/** A bundle that is not as export/FORMAT.md has it, or a graph that is not what the manifest promises. */
export class BundleError extends EdgeaeError {}
/** A file that is not the one that the manifest lists. */
export class IntegrityError extends BundleError {}
/** An argument that does not fit. */
export class InputError extends EdgeaeError {}

/** The first characters of a text; half characters count as whole ones. @type {(text: string, count: number) => string} */
export const startOf = (text, count) => (text.length <= count ? text : Array.from(text).slice(0, count).join(""));

/** @type {(text: string) => string} */
export const shortened = (text) => (startOf(text, 60) === text ? text : `${startOf(text, 57)}...`);

const UNPRINTABLE = /(?! )[\p{C}\p{Z}]/u;

/** A text as Python's repr writes it, or as its ascii does. @type {(text: string, onlyAscii?: boolean) => string} */
export function repr(text, onlyAscii = false) {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const written = Array.from(text, (each) => {
    const code = /** @type {number} */ (each.codePointAt(0));
    const place = "\\\n\r\t".indexOf(each);
    if (place >= 0) return `\\${"\\nrt"[place]}`;
    if (each === quote) return `\\${each}`;
    if (!UNPRINTABLE.test(each) && !(onlyAscii && code > 0x7e)) return each;
    const [letter, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
    return `\\${letter}${code.toString(16).padStart(Number(digits), "0")}`;
  });
  return quote + written.join("") + quote;
}

/** Text from elsewhere, for messages: one line, not long, printable. @type {(text: string) => string} */
export const quoted = (text) => shortened(repr(startOf(text, 200), UNPRINTABLE.test(text)));

/** With commas between thousands. @type {(count: number) => string} */
export const grouped = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, ",");

/** As Python writes a tuple. @type {(sides: readonly number[]) => string} */
export const tupleOf = (sides) => `(${sides.join(", ")}${sides.length === 1 ? "," : ""})`;

/** Up to five names, and how many more. @type {(names: readonly string[]) => string} */
export function someOf(names) {
  const first = names.slice(0, 5).map((name) => (UNPRINTABLE.test(name) ? repr(name) : name));
  return names.length ? first.join(", ") + (names.length > 5 ? ` and ${names.length - 5} more` : "") : "nothing";
}
