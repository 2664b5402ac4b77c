// The manifest: what a bundle promises (export/FORMAT.md). What two readers could understand differently is refused.

import { checkName } from "./archive.js";
import { BundleError, quoted } from "./errors.js";

/**
 * @typedef {{path: string, size: number, sha256: string}} FileEntry
 * @typedef {{rtol: number, atol: number}} Tolerance
 * @typedef {"encoder" | "decoder" | "scorer"} Role
 * @typedef {"fp32" | "fp16" | "int8"} Precision
 * @typedef {"vector" | "HW" | "CHW" | "HWC" | "TC"} Layout
 * @typedef {{encoder: FileEntry, decoder: FileEntry, scorer: FileEntry, golden: FileEntry,
 *   threshold: {value: number, method: string, fpr?: number | null, rows?: number, interval?: number[] | null,
 *     recall?: number | null},
 *   tolerance: {z: Tolerance, x_hat: Tolerance, score: Tolerance}, quality: Record<string, unknown>}} PrecisionEntry
 * @typedef {{shape: number[], dtype: "float32" | "uint8", layout: Layout, feature_names?: string[] | null,
 *   minimum?: number | null, maximum?: number | null}} InputEntry
 * @typedef {{format: string, format_version: number, name: string, created: string, producer: Record<string, string>,
 *   variant: string, description: string, parameters: number, latent_dim: number, input: InputEntry,
 *   normalisation: {kind: string, shift: number[], scale: number[]},
 *   score: {kind: "mse" | "mae" | "bce" | "zscore" | "mahalanobis" | "prototype" | "elbo", decoder_variance?: number | null}, batch: number | null,
 *   opset: number, ir_version: number, precisions: Partial<Record<Precision, PrecisionEntry>>, generative?: boolean,
 *   statistics?: FileEntry | null, training?: Record<string, unknown> | null}} Manifest
 * @typedef {import("./archive.js").Bytes} Bytes
 */

export const FORMAT_VERSION = 1;
const MAX_MANIFEST_BYTES = 8 * 2 ** 20;
const MAX_ROW = 2 ** 24;
const MAX_DEPTH = 32;

/**
 * Parse JSON that every parser understands alike: no key twice, no number beyond float64, not nested too deeply.
 *
 * @param {Bytes} bytes
 * @param {string} where What to call it in messages.
 * @returns {unknown}
 */
export function parseJson(bytes, where) {
  if (bytes.length > MAX_MANIFEST_BYTES) {
    throw new BundleError(`${where}: ${bytes.length} bytes, more than the limit of ${MAX_MANIFEST_BYTES}`);
  }
  let text, value;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (problem) {
    throw new BundleError(`${where}: not valid JSON: ${/** @type {Error} */ (problem).message}`);
  }
  // The text is JSON: strings and what is not a string can be told apart by looking at quotes.
  /** @type {Set<string>[]} */
  const open = [];
  const tokens = /"(?:[^"\\]|\\.)*"(\s*:)?|[[\]{}]|-?[0-9][0-9.eE+-]*/g;
  for (const [token, colon] of text.matchAll(tokens)) {
    if (token === "{" || token === "[") {
      if (open.push(new Set()) > MAX_DEPTH) throw new BundleError(`${where}: nested too deeply`);
    } else if (token === "}" || token === "]") {
      open.pop();
    } else if (colon) {
      const key = JSON.parse(token.slice(0, -colon.length));
      const keys = /** @type {Set<string>} */ (open.at(-1));
      if (keys.has(key)) throw new BundleError(`${where}: the key ${quoted(key)} stands there twice`);
      keys.add(key);
    } else if (token[0] !== '"' && !Number.isFinite(Number(token))) {
      throw new BundleError(`${where}: expected a finite number, got ${quoted(token)}`);
    }
  }
  return value;
}

/** @typedef {(value: unknown, where: string) => void} Check */

/** @type {(what: string, fits: (value: any) => boolean) => Check} */
const kind = (what, fits) => (value, where) => {
  if (!fits(value)) throw new BundleError(`${where}: expected ${what}, got ${shown(value)}`);
};
const text = kind("a string", (value) => typeof value === "string");
const bool = kind("true or false", (value) => typeof value === "boolean");
const numeric = kind("a finite number", (value) => typeof value === "number");
const whole = kind("a whole number from 0", (value) => Number.isSafeInteger(value) && value >= 0);
const anything = kind("a value", () => true);

/** @type {(each: Check) => Check} */
const orNull = (each) => (value, where) => value === null || each(value, where);
/** @type {(...choices: string[]) => Check} */
const oneOf =
  (...choices) =>
  (value, where) => {
    if (!choices.includes(/** @type {string} */ (value))) {
      throw new BundleError(`${where}: ${shown(value)} is not one of ${choices.join(", ")}`);
    }
  };
/** @type {(each: Check) => Check} */
const listOf = (each) => (value, where) => {
  if (!Array.isArray(value)) throw new BundleError(`${where}: expected a list, got ${shown(value)}`);
  value.forEach((item, index) => each(item, `${where}[${index}]`));
};
/** @type {(value: unknown, where: string) => Record<string, unknown>} */
const asObject = (value, where) => {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new BundleError(`${where}: expected an object, got ${shown(value)}`);
  }
  return /** @type {Record<string, unknown>} */ (value);
};
/** @type {(each: Check) => Check} */
const mapOf = (each) => (value, where) => {
  for (const [key, item] of Object.entries(asObject(value, where))) each(item, `${where}.${key}`);
};
/** Keys whose name ends with "?" may be missing. @type {(keys: Record<string, Check>) => Check} */
const record = (keys) => (value, where) => {
  const found = asObject(value, where);
  for (const [name, check] of Object.entries(keys)) {
    const key = name.replace("?", "");
    if (Object.hasOwn(found, key)) check(found[key], `${where}.${key}`);
    else if (key === name) throw new BundleError(`${where}: the key '${key}' is missing`);
  }
  for (const key of Object.keys(found)) {
    if (!Object.hasOwn(keys, key) && !Object.hasOwn(keys, `${key}?`)) {
      const known = Object.keys(keys).map((name) => name.replace("?", ""));
      throw new BundleError(`${where}: unknown key ${quoted(key)}; known keys are ${known.join(", ")}`);
    }
  }
};

export const checkRole = oneOf("encoder", "decoder", "scorer");
export const checkDtype = oneOf("float32", "uint8");
export const checkLayout = oneOf("vector", "HW", "CHW", "HWC", "TC");
export const checkNames = orNull(listOf(text));

const file = record({ path: text, size: whole, sha256: kind("a SHA-256", (value) => /^[0-9a-f]{64}$/.test(value)) });
const bound = kind("a number from 0", (value) => typeof value === "number" && value >= 0);
const tolerance = record({ rtol: bound, atol: bound });
const precision = record({
  encoder: file,
  decoder: file,
  scorer: file,
  golden: file,
  threshold: record({
    value: kind("a float32 value", (value) => typeof value === "number" && Math.fround(value) === value),
    method: oneOf("quantile", "conformal", "evt", "sigma", "best-f1", "recall", "fixed"),
    "fpr?": orNull(numeric),
    "rows?": whole,
    "interval?": orNull(listOf(numeric)),
    "recall?": orNull(numeric),
  }),
  tolerance: record({ z: tolerance, x_hat: tolerance, score: tolerance }),
  quality: mapOf(anything),
});
const manifest = record({
  format: text,
  format_version: whole,
  name: text,
  created: text,
  producer: mapOf(text),
  variant: text,
  description: text,
  parameters: whole,
  latent_dim: whole,
  input: record({
    shape: listOf(whole),
    dtype: checkDtype,
    layout: checkLayout,
    "feature_names?": checkNames,
    "minimum?": orNull(numeric),
    "maximum?": orNull(numeric),
  }),
  normalisation: record({
    kind: oneOf("none", "minmax", "standard", "robust"),
    shift: listOf(numeric),
    scale: listOf(kind("a positive number", (value) => typeof value === "number" && Math.fround(value) > 0)),
  }),
  score: record({
    kind: oneOf("mse", "mae", "bce", "zscore", "mahalanobis", "prototype", "elbo"),
    "decoder_variance?": orNull(numeric),
  }),
  batch: orNull(whole),
  opset: whole,
  ir_version: whole,
  precisions: record({ fp32: precision, "fp16?": precision, "int8?": precision }),
  "generative?": bool,
  "statistics?": orNull(file),
  "training?": orNull(mapOf(anything)),
});

/**
 * Parse and check the bytes of a manifest.json.
 *
 * @param {Bytes} bytes
 * @param {string} where What to call it in messages.
 * @returns {Manifest}
 */
export function parseManifest(bytes, where) {
  const plain = /** @type {any} */ (parseJson(bytes, where));
  if (plain === null || typeof plain !== "object" || plain.format !== "edgeae-bundle") {
    throw new BundleError(`${where}: not an edgeae manifest (its 'format' is not 'edgeae-bundle')`);
  }
  checkVersion(plain.format_version, where);
  manifest(plain, where);
  const found = /** @type {Manifest} */ (plain);
  checkRow(found.input, found.latent_dim, where);
  const { shift, scale } = found.normalisation;
  const channels = channelCount(found.input);
  if (shift.length !== scale.length || ![1, channels].includes(shift.length)) {
    throw new BundleError(
      `${where}: normalisation: ${shift.length} shifts and ${scale.length} scales for rows of shape ` +
        `[${found.input.shape}] (${found.input.layout}); expected 1 or ${channels} of each`,
    );
  }
  if (found.batch === 0) throw new BundleError(`${where}: batch 0 is out of bounds; export the bundle again`);
  const seen = new Set(["manifest.json"]);
  for (const { path } of listedFiles(found)) {
    checkName(path, where);
    if (seen.has(path.toLowerCase())) {
      throw new BundleError(`${where}: lists '${path}' twice; export the bundle again`);
    }
    seen.add(path.toLowerCase());
  }
  return found;
}

/** @type {(version: unknown, where: string) => void} */
export function checkVersion(version, where) {
  if (!Number.isSafeInteger(version) || Number(version) < 1) {
    throw new BundleError(`${where}: format_version must be a whole number from 1, got ${shown(version)}`);
  }
  if (Number(version) > FORMAT_VERSION) {
    throw new BundleError(
      `${where}: format version ${version} is newer than this edgeae reads (${FORMAT_VERSION}); ` +
        "take a newer edgeae.js and formats.js",
    );
  }
}

/** @type {(row: InputEntry, latent: number, where: string) => void} */
export function checkRow(row, latent, where) {
  const sides = `[${row.shape.join(", ")}]`;
  const ranks = { vector: 1, HW: 2, TC: 2, CHW: 3, HWC: 3 };
  if (row.shape.some((side) => !(side > 0)) || !(sizeOf(row.shape) <= MAX_ROW)) {
    throw new BundleError(`${where}: input.shape ${sides} is out of bounds; export the bundle again`);
  }
  if (row.shape.length !== ranks[row.layout]) {
    throw new BundleError(
      `${where}: input.shape ${sides} does not fit the layout ${row.layout}; export the bundle again`,
    );
  }
  if (row.feature_names && (row.layout !== "vector" || row.feature_names.length !== row.shape[0])) {
    throw new BundleError(
      `${where}: input.feature_names: ${row.feature_names.length} names for rows of shape ${sides}; export the bundle again`,
    );
  }
  if (!(latent > 0 && latent <= MAX_ROW)) {
    throw new BundleError(`${where}: latent_dim ${latent} is out of bounds; export the bundle again`);
  }
}

/** All files that a manifest lists. @type {(manifest: Manifest) => FileEntry[]} */
export function listedFiles(manifest) {
  const entries = Object.values(manifest.precisions);
  const files = entries.flatMap((entry) => [entry.encoder, entry.decoder, entry.scorer, entry.golden]);
  return manifest.statistics ? [...files, manifest.statistics] : files;
}

/** How many shifts and scales a row may have: one per feature or channel. @type {(row: InputEntry) => number} */
function channelCount(row) {
  if (row.layout === "HW") return 1;
  return row.layout === "CHW" ? row.shape[0] : row.shape[row.shape.length - 1];
}

/**
 * The normalisation's shift and scale for every value of a row, in the row's order.
 *
 * @type {(manifest: Manifest) => {shift: Float32Array, scale: Float32Array}}
 */
export function normalisationOf(manifest) {
  const { shape, layout } = manifest.input;
  const size = sizeOf(shape);
  const plane = layout === "CHW" ? size / shape[0] : 1;
  /** @type {(values: number[]) => Float32Array} */
  const spread = (values) =>
    Float32Array.from({ length: size }, (_, index) => values[Math.floor(index / plane) % values.length]);
  return { shift: spread(manifest.normalisation.shift), scale: spread(manifest.normalisation.scale) };
}

/** How many values an array of this shape has. @type {(shape: readonly number[]) => number} */
export const sizeOf = (shape) => shape.reduce((product, side) => product * side, 1);

/** @type {(value: unknown) => string} */
function shown(value) {
  const text = typeof value === "string" ? quoted(value) : (JSON.stringify(value) ?? "nothing");
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
