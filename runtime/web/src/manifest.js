// The manifest: what a bundle promises (export/FORMAT.md). What two readers could understand differently is refused.

import { checkName } from "./archive.js";
import { BundleError, grouped, quoted, repr, shortened, startOf, tupleOf } from "./errors.js";
import { JsonNumber, parseJson, shown } from "./json.js";

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
 * @typedef {{stride?: number, channel_names?: string[] | null, period?: number | null, resampled?: boolean,
 *   label?: "any" | "last"}} SeriesEntry
 * @typedef {{shape: number[], dtype: "float32" | "uint8", layout: Layout, feature_names?: string[] | null,
 *   minimum?: number | null, maximum?: number | null, series?: SeriesEntry | null}} InputEntry
 * @typedef {{format: string, format_version: number, name: string, created: string, producer: Record<string, string>,
 *   variant: string, description: string, parameters: number, latent_dim: number, input: InputEntry,
 *   normalisation: {kind: string, shift: number[], scale: number[]},
 *   score: {kind: "mse" | "mae" | "bce" | "zscore" | "mahalanobis" | "prototype" | "elbo", decoder_variance?: number | null}, batch: number | null,
 *   opset: number, ir_version: number, precisions: Partial<Record<Precision, PrecisionEntry>>, generative?: boolean,
 *   statistics?: FileEntry | null, training?: Record<string, unknown> | null}} Manifest
 * @typedef {import("./archive.js").Bytes} Bytes
 * @typedef {import("./json.js").Json} Json
 */

export const FORMAT_VERSION = 1;
const MAX_ROW = 2 ** 24;
const MAX_BATCH = 2 ** 20;
export const MAX_FILE_BYTES = 2 ** 31;
const MAX_FLOAT32 = 3.4028234663852886e38;

// --- types: what a value must be, whatever it means; each check returns the plain value ---

/** @typedef {(value: Json, where: string) => any} Check */

/** @type {(where: string, expected: string, value: Json) => BundleError} */
const unlike = (where, expected, value) => new BundleError(`${where}: expected ${expected}, got ${shown(value)}`);

// Half characters cannot be written or printed; the others can rewrite what stands on a terminal.
// eslint-disable-next-line no-control-regex
const NO_TEXT = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

/** @type {Check} */
function text(value, where) {
  if (typeof value !== "string") throw unlike(where, "str", value);
  if (NO_TEXT.test(value)) {
    throw new BundleError(`${where}: ${shown(value)} holds control characters or half characters`);
  }
  return value;
}
/** @type {Check} */
function bool(value, where) {
  if (typeof value !== "boolean") throw unlike(where, "bool", value);
  return value;
}
/** @type {Check} */
function numeric(value, where) {
  if (!(value instanceof JsonNumber)) throw unlike(where, "a number", value);
  if (!Number.isFinite(value.value)) throw unlike(where, "a finite number", value);
  return value.value;
}
/** A number, or a bigint where it is beyond 53 bits. @type {Check} */
function exactly(value, where) {
  if (!(value instanceof JsonNumber) || !value.whole) throw unlike(where, "a whole number", value);
  if (Number.isSafeInteger(value.value)) return value.value;
  const exact = BigInt(value.word);
  if (exact !== BigInt.asIntN(64, exact)) throw unlike(where, "a whole number of 64 bits", value);
  return exact;
}
/** For people, who do not mind its last digits. @type {Check} */
const whole = (value, where) => Number(exactly(value, where));

/** @type {(each: Check) => Check} */
const orNull = (each) => (value, where) => (value === null ? null : each(value, where));
/** @type {(...choices: string[]) => Check} */
const oneOf =
  (...choices) =>
  (value, where) => {
    if (typeof value === "string" && choices.includes(value)) return value;
    throw new BundleError(`${where}: ${shown(value)} is not one of ${choices.join(", ")}`);
  };
/** @type {(each: Check) => Check} */
const listOf = (each) => (value, where) => {
  if (!Array.isArray(value)) throw unlike(where, "a list", value);
  return value.map((item, index) => each(item, `${where}[${index}]`));
};
/** @type {(each: Check) => Check} */
const mapOf = (each) => (value, where) => {
  if (!(value instanceof Map)) throw unlike(where, "an object", value);
  const made = [];
  for (const [key, item] of value) {
    text(key, `${where}: a key`);
    made.push([key, each(item, `${where}.${startOf(key, 60)}`)]);
  }
  return Object.fromEntries(made);
};
/** Keys whose name ends with "?" may be missing. @type {(name: string, keys: Record<string, Check>) => Check} */
const record = (name, keys) => {
  const checks = new Map(Object.entries(keys).map(([key, check]) => [key.replace("?", ""), check]));
  const needed = Object.keys(keys).filter((key) => !key.endsWith("?"));
  return (value, where) => {
    if (!(value instanceof Map)) throw unlike(where, `an object with the keys of ${name}`, value);
    const [unknown] = [...value.keys()].filter((key) => !checks.has(key)).sort();
    if (unknown !== undefined) {
      throw new BundleError(`${where}: unknown key ${quoted(unknown)}; known keys are ${[...checks.keys()].join(", ")}`);
    }
    for (const key of needed) {
      if (!value.has(key)) throw new BundleError(`${where}: the key '${key}' is missing`);
    }
    const made = [];
    for (const [key, item] of value) made.push([key, /** @type {Check} */ (checks.get(key))(item, `${where}.${key}`)]);
    return Object.fromEntries(made);
  };
};

export const checkRole = oneOf("encoder", "decoder", "scorer");
export const checkDtype = oneOf("float32", "uint8");
export const checkLayout = oneOf("vector", "HW", "CHW", "HWC", "TC");
export const checkNames = orNull(listOf(text));

const file = record("File", { path: text, size: exactly, sha256: text });
const precision = record("PrecisionEntry", {
  encoder: file,
  decoder: file,
  scorer: file,
  golden: file,
  threshold: record("Threshold", {
    value: numeric,
    method: oneOf("quantile", "conformal", "evt", "sigma", "best-f1", "recall", "fixed"),
    "fpr?": orNull(numeric),
    "rows?": whole,
    "interval?": orNull(listOf(numeric)),
    "recall?": orNull(numeric),
  }),
  tolerance: mapOf(record("Tolerance", { rtol: numeric, atol: numeric })),
  quality: record("Quality", {
    parity: mapOf(numeric),
    parity_rows: whole,
    "near_ties?": whole,
    "reconstruction_mse?": orNull(numeric),
    "mean_mse?": orNull(numeric),
    "auroc?": orNull(numeric),
    "rank_correlation?": orNull(numeric),
    "label_flips?": orNull(numeric),
  }),
});
const series = record("Series", {
  "stride?": exactly,
  "channel_names?": checkNames,
  "period?": orNull(numeric),
  "resampled?": bool,
  "label?": oneOf("any", "last"),
});
const manifest = record("Manifest", {
  format: oneOf("edgeae-bundle"),
  format_version: exactly,
  name: text,
  created: text,
  producer: mapOf(text),
  variant: text,
  description: text,
  parameters: whole,
  latent_dim: exactly,
  input: record("Input", {
    shape: listOf(exactly),
    dtype: checkDtype,
    layout: checkLayout,
    "feature_names?": checkNames,
    "minimum?": orNull(numeric),
    "maximum?": orNull(numeric),
    "series?": orNull(series),
  }),
  normalisation: record("Normalisation", {
    kind: oneOf("none", "minmax", "standard", "robust"),
    shift: listOf(numeric),
    scale: listOf(numeric),
  }),
  score: record("Score", {
    kind: oneOf("mse", "mae", "bce", "zscore", "mahalanobis", "prototype", "elbo"),
    "decoder_variance?": orNull(numeric),
  }),
  batch: orNull(exactly),
  opset: whole,
  ir_version: whole,
  precisions: mapOf(precision),
  "generative?": bool,
  "statistics?": orNull(file),
  "training?": orNull(
    record("Provenance", {
      data: text,
      "data_digest?": orNull(text),
      "rows?": whole,
      "epochs?": whole,
      "loss?": text,
      "seed?": whole,
    }),
  ),
});

// --- meaning: what values of the right types must be to one another ---

/** @type {(value: number) => boolean} */
const fitsFloat32 = (value) => Math.abs(value) <= MAX_FLOAT32;

/** @type {(condition: boolean, where: string, message: string) => void} */
function require(condition, where, message) {
  if (!condition) throw new BundleError(`${where}: ${message}; export the bundle again`);
}

/**
 * Parse and check the bytes of a manifest.json, as strictly and in the same order as Python.
 *
 * @param {Bytes} bytes
 * @param {string} where What to call it in messages.
 * @returns {Manifest}
 */
export function parseManifest(bytes, where) {
  const plain = parseJson(bytes, where);
  if (!(plain instanceof Map) || plain.get("format") !== "edgeae-bundle") {
    throw new BundleError(`${where}: not an edgeae manifest (its 'format' is not 'edgeae-bundle')`);
  }
  checkVersion(plain.get("format_version") ?? null, where);
  const found = /** @type {Manifest} */ (manifest(plain, where));
  checkRow(found.input, found.latent_dim, where);
  const { batch, score } = found;
  require(batch === null || (batch > 0 && batch <= MAX_BATCH), where, `batch ${batch} is out of bounds`);
  for (const limit of [found.input.minimum, found.input.maximum]) {
    require(typeof limit !== "number" || fitsFloat32(limit), where, "input.minimum and .maximum must be within float32");
  }
  checkNormalisation(found, where);
  checkSeries(found.input, where);
  const variance = score.decoder_variance ?? null;
  require(variance === null || variance > 0, where, "score.decoder_variance must be positive");
  require(Object.hasOwn(found.precisions, "fp32"), where, "precisions: fp32 is missing");
  for (const [name, entry] of Object.entries(found.precisions)) checkPrecision(name, entry, where);
  checkFiles(found, where);
  return found;
}

/** @type {(version: Json, where: string) => void} */
function checkVersion(version, where) {
  if (!(version instanceof JsonNumber) || !version.whole || version.value < 1) {
    throw new BundleError(`${where}: format_version must be a whole number from 1, got ${shown(version)}`);
  }
  requireKnown(version.value, shown(version), where);
}

/** @type {(version: number, written: string, where: string) => void} */
export function requireKnown(version, written, where) {
  if (version <= FORMAT_VERSION) return;
  throw new BundleError(
    `${where}: format version ${written} is newer than this edgeae reads (${FORMAT_VERSION}); upgrade edgeae`,
  );
}

/** @type {(row: InputEntry, latent: number, where: string) => void} */
export function checkRow(row, latent, where) {
  const { shape, layout } = row;
  const sides = shortened(`[${shape.join(", ")}]`);
  const ranks = { vector: 1, HW: 2, TC: 2, CHW: 3, HWC: 3 };
  require(shape.length > 0 && shape.length <= 3, where, `input.shape has ${shape.length} axes, expected 1 to 3`);
  require(shape.every((side) => side > 0 && side <= MAX_ROW), where, `input.shape ${sides} is out of bounds`);
  require(shape.length === ranks[layout], where, `input.shape ${sides} does not fit the layout ${layout}`);
  require(sizeOf(shape) <= MAX_ROW, where, `input.shape ${sides}: more than ${grouped(MAX_ROW)} values`);
  const names = row.feature_names ?? null;
  require(
    names === null || (layout === "vector" && names.length === shape[0]),
    where,
    `input.feature_names: ${names?.length} names for rows of shape ${sides}`,
  );
  require(latent > 0 && latent <= MAX_ROW, where, `latent_dim ${latent} is out of bounds`);
}

/** @type {(found: Manifest, where: string) => void} */
function checkNormalisation({ input, normalisation: { shift, scale } }, where) {
  require([...shift, ...scale].every(fitsFloat32), where, "normalisation.shift and .scale must be within float32");
  const channels = channelCount(input);
  if (shift.length !== scale.length || ![1, channels].includes(shift.length)) {
    throw new BundleError(
      `${where}: normalisation: ${shift.length} shifts and ${scale.length} scales for rows of shape ` +
        `${tupleOf(input.shape)} (${input.layout}); expected 1 or ${channels} of each`,
    );
  }
  require(scale.every((value) => Math.fround(value) > 0), where, "normalisation.scale must be positive");
}

/** @type {(row: InputEntry, where: string) => void} */
function checkSeries({ series: found, layout, shape }, where) {
  if (!found) return;
  require(layout === "TC", where, `input.series: rows of the layout ${layout} are no windows`);
  const { stride = 1, channel_names: names = null, period = null, resampled = false } = found;
  require(stride > 0 && stride <= MAX_ROW, where, `input.series.stride ${stride} is out of bounds`);
  require(
    names === null || names.length === shape[1],
    where,
    `input.series.channel_names: ${names?.length} names for windows of shape [${shape.join(", ")}]`,
  );
  require(period === null || (period > 0 && fitsFloat32(period)), where, "input.series.period must be positive");
  require(period !== null || !resampled, where, "input.series: resampled, and no period");
}

/** @type {(name: string, entry: PrecisionEntry, where: string) => void} */
function checkPrecision(name, { tolerance, threshold }, where) {
  const known = ["fp32", "fp16", "int8"];
  require(known.includes(name), where, `precisions: unknown precision ${quoted(name)}; known are ${known.join(", ")}`);
  const start = `precisions.${name}`;
  require(Object.keys(tolerance).sort().join() === "score,x_hat,z", where, `${start}.tolerance: need z, x_hat, score`);
  const bounds = Object.values(tolerance).flatMap(({ rtol, atol }) => [rtol, atol]);
  require(bounds.every((bound) => bound >= 0), where, `${start}.tolerance must not be below 0`);
  const { value, interval = null } = threshold;
  require(
    fitsFloat32(value) && Math.fround(value) === value,
    where,
    `${start}.threshold.value is not a float32 value`,
  );
  const ordered = interval === null || (interval.length === 2 && 0 <= interval[0] && interval[0] <= interval[1] && interval[1] <= 1);
  require(ordered, where, `${start}.threshold.interval is not two ascending numbers from 0 to 1`);
}

/** @type {(found: Manifest, where: string) => void} */
function checkFiles(found, where) {
  const seen = new Set(["manifest.json"]);
  for (const { path, size, sha256 } of listedFiles(found)) {
    checkName(path, where);
    if (seen.has(path.toLowerCase())) {
      throw new BundleError(`${where}: lists ${repr(path)} twice; export the bundle again`);
    }
    seen.add(path.toLowerCase());
    require(size >= 0 && size <= MAX_FILE_BYTES, where, `the size ${size} of ${path} is out of bounds`);
    require(/^[0-9a-f]{64}$/.test(sha256), where, `the sha256 of ${path} is not one`);
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
