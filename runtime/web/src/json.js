// A strict JSON reader that knows how a number was written, and says of wrong values what Python says.

import { BundleError, grouped, quoted, repr, shortened, startOf } from "./errors.js";

/** @typedef {import("./archive.js").Bytes} Bytes */

const MAX_DEPTH = 32;
const MAX_CONTAINERS = 2 ** 16; // lists, objects and keys
const MAX_STRINGS = 2 ** 20;
const MAX_DIGITS = 4300; // of a whole number, as in Python

/** A number as it was written: 4 and 4.0 are not the same. */
export class JsonNumber {
  /** @param {string} word */
  constructor(word) {
    this.word = word;
    this.whole = !/[.eE]/.test(word);
    /** Infinite where a whole number is beyond float64. */
    this.value = Number(word);
  }
}

/** @typedef {null | boolean | string | JsonNumber | Json[] | Map<string, Json>} Json */

/**
 * Parse JSON that every parser understands alike: no key twice, no number beyond float64, bounded depth and amount.
 *
 * @param {Bytes} bytes
 * @param {string} where What to call it in messages.
 * @returns {Json}
 */
export function parseJson(bytes, where) {
  requireBounded(bytes, where);
  /** @type {string} */
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new BundleError(`${where}: not UTF-8 at byte ${firstNotUtf8(bytes)}`);
  }
  let at = 0;
  /** @type {(what: string) => BundleError} */
  const wrong = (what) => new BundleError(`${where}: not valid JSON: ${what} at character ${at}`);
  /** @type {(pattern: RegExp) => string | null} */
  const take = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) at += found[0].length;
    return found && found[0];
  };
  const space = () => take(/[ \t\r\n]*/y);

  /** @returns {Json} */
  function parseValue() {
    space();
    const first = text[at];
    if (first === "{") return parseObject();
    if (first === "[") return parseList();
    if (first === '"') return parseText();
    const word = take(/true|false|null/y);
    if (word) return word === "null" ? null : word === "true";
    const name = take(/NaN|-?Infinity/y);
    if (name) throw new BundleError(`${where}: ${name} is not allowed in JSON`);
    const digits = take(/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y);
    if (digits === null) throw wrong("expected a value");
    const number = new JsonNumber(digits);
    if (number.whole && digits.replace("-", "").length > MAX_DIGITS) throw wrong("a number of too many digits");
    if (!number.whole && !Number.isFinite(number.value)) {
      throw new BundleError(`${where}: the number ${quoted(digits)} is beyond float64`);
    }
    return number;
  }

  /** @returns {Json[]} */
  function parseList() {
    at++;
    space();
    /** @type {Json[]} */
    const list = [];
    if (take(/]/y)) return list;
    for (;;) {
      list.push(parseValue());
      space();
      if (take(/]/y)) return list;
      if (!take(/,/y)) throw wrong("expected ',' or ']'");
    }
  }

  /** @returns {Map<string, Json>} */
  function parseObject() {
    at++;
    space();
    /** @type {Map<string, Json>} */
    const object = new Map();
    /** @type {Map<string, number>} */
    const counts = new Map();
    let most = "";
    if (take(/}/y)) return object;
    for (;;) {
      space();
      if (text[at] !== '"') throw wrong("expected a key");
      const key = parseText();
      space();
      if (!take(/:/y)) throw wrong("expected ':'");
      object.set(key, parseValue());
      counts.set(key, (counts.get(key) ?? 0) + 1);
      space();
      if (take(/}/y)) break;
      if (!take(/,/y)) throw wrong("expected ',' or '}'");
    }
    for (const [key, count] of counts) if (count > Math.max(1, counts.get(most) ?? 0)) most = key;
    if ([...counts.values()].some((count) => count > 1)) {
      throw new BundleError(`${where}: the key ${quoted(most)} stands there twice`);
    }
    return object;
  }

  /** @returns {string} */
  function parseText() {
    const word = take(/"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y);
    if (word === null) throw wrong("a text that is cut off or holds what it must not");
    return JSON.parse(word);
  }

  const value = parseValue();
  space();
  if (at !== text.length) throw wrong("extra data");
  return value;
}

/** Before anything is allocated or recurses, whatever the bytes are. @type {(bytes: Bytes, where: string) => void} */
function requireBounded(bytes, where) {
  const [quote, backslash, colon, list, listEnd, object, objectEnd] = Array.from('"\\:[]{}', (each) => each.charCodeAt(0));
  let [quotes, containers, keys, depth, inside] = [0, 0, 0, 0, false];
  for (const byte of bytes) if (byte === quote) quotes++;
  if (quotes > 2 * MAX_STRINGS) throw new BundleError(`${where}: holds more than ${grouped(MAX_STRINGS)} strings`);
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === backslash && (bytes[at + 1] === backslash || bytes[at + 1] === quote)) at++;
    else if (byte === quote) inside = !inside;
    else if (inside) continue;
    else if (byte === colon) keys++;
    else if (containers > MAX_CONTAINERS) continue;
    else if (byte === list || byte === object) {
      containers++;
      if (++depth > MAX_DEPTH) throw new BundleError(`${where}: nested deeper than ${MAX_DEPTH} lists and objects`);
    } else if (byte === listEnd || byte === objectEnd) depth--;
  }
  if (containers + keys > MAX_CONTAINERS) {
    throw new BundleError(`${where}: holds more than ${grouped(MAX_CONTAINERS)} lists, objects and keys`);
  }
}

/** Where the first character begins that is none. @type {(bytes: Bytes) => number} */
function firstNotUtf8(bytes) {
  for (let at = 0; ; ) {
    const lead = bytes[at];
    const size = lead < 0x80 ? 1 : lead >> 5 === 6 ? 2 : lead >> 4 === 14 ? 3 : 4;
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(at, at + size));
    } catch {
      return at;
    }
    at += size;
  }
}

/** As Python's repr writes it, shortened. @type {(value: Json | number | bigint | undefined) => string} */
export function shown(value) {
  return typeof value === "string" ? quoted(value) : shortened(plainText(value));
}

/** @type {(value: Json | number | bigint | undefined, room?: number) => string} */
function plainText(value, room = 500) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return repr(startOf(value, 100));
  if (value instanceof JsonNumber) return value.whole ? value.word.replace(/^-0$/, "0") : floatText(value.value);
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  const parts = [];
  for (const item of value) {
    if (room < 0) break;
    const part = Array.isArray(value)
      ? plainText(/** @type {Json} */ (item), room)
      : `${repr(startOf(/** @type {[string, Json]} */ (item)[0], 100))}: ${plainText(/** @type {[string, Json]} */ (item)[1], room)}`;
    parts.push(part);
    room -= part.length;
  }
  return Array.isArray(value) ? `[${parts.join(", ")}]` : `{${parts.join(", ")}}`;
}

/** A finite number as Python writes a float. @type {(value: number) => string} */
export function floatText(value) {
  if (Object.is(value, -0)) return "-0.0";
  const [, sign, digits, power] = /** @type {string[]} */ (/^(-?)([0-9.]+)e(.*)$/.exec(value.toExponential()));
  const exponent = Number(power);
  if (value !== 0 && (exponent < -4 || exponent >= 16)) {
    return `${sign}${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const plain = digits.replace(".", "");
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${plain}`;
  const whole = plain.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${plain.slice(exponent + 1) || "0"}`;
}
