// Rows that people paste: CSV, tabs or blanks; with or without a first line of names.

import { InputError, quoted } from "../src/errors.js";
import { sizeOf } from "../src/manifest.js";

/**
 * Read rows of numbers from text; empty cells and words become NaN.
 *
 * @param {string} text
 * @param {readonly number[]} shape One row of the model.
 * @param {string} layout
 * @param {readonly string[] | null} names The model's features, by which a first line of names sorts the columns.
 * @returns {Float32Array[]}
 */
export function parseTable(text, shape, layout, names) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  if (!lines.length) throw new InputError("paste: no rows; paste at least one line of numbers");
  const separator = [/\t/, /;/, /,/].find((each) => each.test(lines[0])) ?? /\s+/;
  let table = lines.map((line) =>
    line
      .trim()
      .split(separator)
      .map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")),
  );
  if (table[0].every((cell) => cell !== "" && Number.isNaN(Number(cell)) && !/^nan$/i.test(cell))) {
    const [header, ...rest] = table;
    if (!rest.length) throw new InputError("paste: a line of names, but no rows under it");
    table = names ? sorted(header, rest, names) : rest;
  }
  const size = sizeOf(shape);
  const width = table[0].length;
  const rows = table.map((cells, index) => {
    if (cells.length !== width) {
      throw new InputError(`paste: line ${index + 1} has ${cells.length} values, the first one ${width}`);
    }
    return cells.map((cell) => (cell === "" ? NaN : Number(cell)));
  });
  if (width === size) return rows.map((row) => Float32Array.from(row));
  const [steps, channels] = shape;
  if (layout === "TC" && width === channels) {
    if (rows.length % steps) {
      throw new InputError(`paste: ${rows.length} lines of ${channels} values; a window takes ${steps} lines`);
    }
    return Array.from({ length: rows.length / steps }, (_, index) =>
      Float32Array.from(rows.slice(index * steps, (index + 1) * steps).flat()),
    );
  }
  throw new InputError(`paste: ${width} values on a line; a row has ${size}`);
}

/** @type {(header: string[], rows: string[][], names: readonly string[]) => string[][]} */
function sorted(header, rows, names) {
  const order = names.map((name) => header.indexOf(name));
  const missing = order.indexOf(-1);
  if (missing >= 0) throw new InputError(`paste: the column ${quoted(names[missing])} is missing`);
  return rows.map((cells, index) => {
    if (cells.length !== header.length) {
      throw new InputError(`paste: line ${index + 2} has ${cells.length} values, the line of names ${header.length}`);
    }
    return order.map((place) => cells[place]);
  });
}
