// Checking what callers pass in: rows in any of the forms below become one flat array that a graph may read.

import { InputError, quoted } from "./errors.js";
import { floatText } from "./json.js";
import { sizeOf } from "./manifest.js";

/**
 * @typedef {Float32Array | Float64Array | Uint8Array | Uint8ClampedArray | Int8Array | Uint16Array | Int16Array |
 *   Uint32Array | Int32Array} NumberArray
 * @typedef {number | boolean | NumberArray | readonly Nested[]} Nested
 * @typedef {{readonly data: unknown, readonly dims: readonly number[]}} WithDims
 *
 * Rows [n, *shape], as one of
 * - a typed array that holds whole rows one after the other (n is its length over the size of a row),
 * - nested arrays: a list of rows, each an array of the row's shape or a typed array of its size,
 * - an object with `data` and `dims`, such as what `encode` returns or a tensor of ONNX Runtime.
 * @typedef {NumberArray | readonly Nested[] | WithDims} Rows
 *
 * @typedef {object} RowSpec What rows must be.
 * @property {"x" | "z"} name
 * @property {number[]} shape One row.
 * @property {"float32" | "uint8"} dtype What the graph reads.
 * @property {string} layout
 * @property {readonly string[] | null} names One per value, where there are names.
 * @property {Float32Array} filler A harmless row, which takes the place of an invalid one.
 *
 * @typedef {object} Checked
 * @property {Float32Array | Uint8Array} data All rows as the graph reads them.
 * @property {number} n
 * @property {Set<number>} bad Which rows were replaced.
 */

/** The expected shape and type, in words. @type {(spec: RowSpec) => string} */
const expected = (spec) => `${spec.dtype} [n, ${spec.shape.join(", ")}]`;

/**
 * Check shape, type and values of rows, and convert them if they are not yet what the graph reads.
 *
 * @param {Rows} value
 * @param {RowSpec} spec
 * @param {boolean} flag Replace rows with values that are not finite, instead of refusing them.
 * @returns {Checked}
 */
export function checkRows(value, spec, flag) {
  const { data, n } = flattened(value, spec);
  return spec.dtype === "uint8" ? checkBytes(data, n, spec, flag) : checkFloats(data, n, spec, flag);
}

/** @type {(value: unknown, spec: RowSpec) => {data: NumberArray, n: number}} */
function flattened(value, spec) {
  const size = sizeOf(spec.shape);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    const data = asNumbers(value, spec);
    if (data.length % size === 0) return { data, n: data.length / size };
    throw new InputError(
      `${spec.name}: expected ${expected(spec)}, got ${typeName(data)} [${data.length}]; ` +
        `a flat array holds whole rows, of ${size} values each`,
    );
  }
  if (Array.isArray(value)) return ofNested(value, spec);
  if (value !== null && typeof value === "object" && "data" in value && "dims" in value) {
    const { data, dims } = /** @type {{data: unknown, dims: readonly number[]}} */ (value);
    const numbers = asNumbers(data, spec);
    checkShape(dims, typeName(numbers), spec);
    if (numbers.length !== sizeOf(dims)) {
      throw new InputError(`${spec.name}: ${numbers.length} values with the dims [${dims.join(", ")}]`);
    }
    return { data: numbers, n: dims[0] };
  }
  throw new InputError(`${spec.name}: expected ${expected(spec)}, got ${kindOf(value)}`);
}

/** @type {(data: unknown, spec: RowSpec) => NumberArray} */
function asNumbers(data, spec) {
  const name = typeName(data);
  if (/^(float(32|64)|u?int(8|16|32))$/.test(name)) return /** @type {NumberArray} */ (data);
  throw new InputError(`${spec.name}: got values (${name}); expected numbers, ${expected(spec)}`);
}

/** The element type of a typed array, as NumPy would call it. @type {(data: unknown) => string} */
function typeName(data) {
  const name = Object.prototype.toString.call(data).slice(8, -6).toLowerCase();
  return name === "uint8clamped" ? "uint8" : name;
}

/** @type {(value: unknown) => string} */
function kindOf(value) {
  if (value === null || value === undefined) return String(value);
  if (typeof value === "string") return `text (${quoted(value)})`;
  return typeof value === "object" ? (value.constructor?.name ?? "object") : typeof value;
}

/** @type {(list: readonly unknown[], spec: RowSpec) => {data: NumberArray, n: number}} */
function ofNested(list, spec) {
  if (list.length === 0) return { data: new Float32Array(), n: 0 };
  /** @type {number[]} */
  const shape = [];
  /** @type {unknown} */
  let first = list;
  while (Array.isArray(first) || ArrayBuffer.isView(first)) {
    const { length } = /** @type {ArrayLike<unknown>} */ (first);
    shape.push(length);
    if (!Array.isArray(first) || length === 0) break;
    first = first[0];
  }
  // rows that are typed arrays are flat: their length says how many values they have, not their shape
  if (shape.length === 2 && !Array.isArray(list[0]) && shape[1] === sizeOf(spec.shape))
    shape.splice(1, 1, ...spec.shape);
  const data = new Float64Array(sizeOf(shape));
  let at = 0;
  /** @type {(item: unknown, depth: number, row: number) => void} */
  const fill = (item, depth, row) => {
    if (typeof item === "number" || typeof item === "boolean") {
      if (depth !== shape.length) throw ragged(spec, row);
      data[at++] = Number(item);
    } else if (ArrayBuffer.isView(item)) {
      const numbers = asNumbers(item, spec);
      if (numbers.length !== sizeOf(shape.slice(depth))) throw ragged(spec, row);
      data.set(numbers, at);
      at += numbers.length;
    } else if (Array.isArray(item)) {
      if (item.length !== shape[depth]) throw ragged(spec, row);
      item.forEach((each, index) => fill(each, depth + 1, depth === 0 ? index : row));
    } else {
      throw new InputError(`${spec.name}: row ${row}: got ${kindOf(item)}; expected numbers, ${expected(spec)}`);
    }
  };
  fill(list, 0, 0);
  checkShape(shape, "float64", spec);
  return { data, n: shape[0] };
}

/** @type {(spec: RowSpec, row: number) => InputError} */
const ragged = (spec, row) =>
  new InputError(`${spec.name}: row ${row} is of another shape than the first one; expected ${expected(spec)}`);

/** @type {(dims: readonly number[], type: string, spec: RowSpec) => void} */
function checkShape(dims, type, spec) {
  const row = spec.shape;
  if (dims.length === row.length + 1 && row.every((side, index) => side === dims[index + 1])) return;
  throw new InputError(`${spec.name}: expected ${expected(spec)}, got ${type} [${dims.join(", ")}]${hint(dims, spec)}`);
}

/** @type {(dims: readonly number[], spec: RowSpec) => string} */
function hint(dims, spec) {
  const row = spec.shape;
  const rest = dims.slice(1);
  /** @type {(sides: readonly number[]) => string} */
  const key = (sides) => [...sides].sort((one, other) => one - other).join();
  if (dims.join() === row.join()) return `; for a single row pass [${spec.name}]`;
  if (rest.length > 1 && key(rest) === key(row)) {
    return `; the rows' axes are in another order than the bundle's ${spec.layout} [${row.join(", ")}]`;
  }
  if (rest.length && sizeOf(rest) === sizeOf(row)) {
    return `; give their values the dims [${[dims[0], ...row].join(", ")}]`;
  }
  if (rest.length === 1 && row.length === 1) return `: ${rest[0]} values in a row instead of ${row[0]}`;
  return "";
}

/** @type {(data: NumberArray, n: number, spec: RowSpec, flag: boolean) => Checked} */
function checkFloats(data, n, spec, flag) {
  let floats = data instanceof Float32Array ? data : new Float32Array(data);
  const bad = new Set();
  let sum = 0;
  for (let index = 0; index < floats.length; index++) sum += floats[index] * floats[index];
  if (Number.isFinite(sum)) return { data: floats, n, bad }; // a sum of squares is finite only if all values are
  const size = sizeOf(spec.shape);
  for (let index = 0; index < floats.length; index++) {
    if (Number.isFinite(floats[index])) continue;
    if (!flag) throw notFinite(data[index], index, spec);
    bad.add(Math.floor(index / size));
  }
  if (bad.size && floats === data) floats = floats.slice();
  for (const row of bad) floats.set(spec.filler, row * size);
  return { data: floats, n, bad };
}

/** @type {(data: NumberArray, n: number, spec: RowSpec, flag: boolean) => Checked} */
function checkBytes(data, n, spec, flag) {
  const bad = new Set();
  if (data instanceof Uint8Array) return { data, n, bad };
  const size = sizeOf(spec.shape);
  for (let index = 0; index < data.length; index++) {
    const value = data[index];
    if (!Number.isFinite(value)) {
      if (!flag) throw notFinite(value, index, spec);
      bad.add(Math.floor(index / size));
    }
  }
  const bytes = new Uint8Array(data.length);
  for (let index = 0; index < data.length; index++) {
    const value = data[index];
    if (bad.has(Math.floor(index / size))) continue;
    if (!Number.isInteger(value) || value < 0 || value > 255) {
      throw new InputError(
        `${place(index, spec)} is ${written(value)}; this bundle takes uint8 images, whole numbers from 0 to 255; ` +
          "do not rescale them, the graph does",
      );
    }
    bytes[index] = value;
  }
  for (const row of bad) bytes.set(spec.filler, row * size);
  return { data: bytes, n, bad };
}

/** @type {(value: number, index: number, spec: RowSpec) => InputError} */
function notFinite(value, index, spec) {
  const what = Number.isFinite(value) ? `is ${written(value)}, beyond the range of float32` : `is ${written(value)}`;
  return new InputError(
    `${place(index, spec)} ${what}; remove or impute such values, or load the bundle with ` +
      "onInvalid: 'flag' to give these rows the score NaN",
  );
}

/** Numbers as Python writes them. @type {(value: number) => string} */
function written(value) {
  if (Number.isNaN(value)) return "nan";
  return Number.isFinite(value) ? floatText(value) : value > 0 ? "inf" : "-inf";
}

/** @type {(index: number, spec: RowSpec) => string} */
function place(index, spec) {
  const size = sizeOf(spec.shape);
  const within = index % size;
  const value = spec.names
    ? `feature '${spec.names[within]}'`
    : `value ${spec.shape.length > 1 ? `[${placeOf(within, spec.shape).join(", ")}]` : within}`;
  return `${spec.name}: row ${Math.floor(index / size)}, ${value}`;
}

/**
 * Where the value with this index is in an array of this shape.
 *
 * @type {(index: number, shape: readonly number[]) => number[]}
 */
export function placeOf(index, shape) {
  const found = [];
  for (const side of [...shape].reverse()) {
    found.unshift(index % side);
    index = Math.floor(index / side);
  }
  return found;
}
