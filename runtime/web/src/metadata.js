// What an .onnx file says of itself: ModelProto.metadata_props, which ONNX Runtime's JavaScript API does not show
// (https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).

import { BundleError, quoted } from "./errors.js";
import { parseJson } from "./json.js";
import { checkDtype, checkLayout, checkNames, checkRole, checkRow, requireKnown } from "./manifest.js";

/**
 * @typedef {import("./archive.js").Bytes} Bytes
 * @typedef {import("./manifest.js").InputEntry} InputEntry
 * @typedef {import("./manifest.js").Precision} Precision
 * @typedef {import("./manifest.js").Role} Role
 */

const METADATA_PROPS = 14;

/**
 * Read the metadata of an ONNX file.
 *
 * @param {Bytes} bytes
 * @param {string} where
 * @returns {Map<string, string>}
 */
export function readMetadata(bytes, where) {
  /** @type {Map<string, string>} */
  const found = new Map();
  for (const [field, content] of fields(bytes, where)) {
    if (field !== METADATA_PROPS || content === null) continue;
    const pair = new Map(fields(content, where));
    const [key, value] = [1, 2].map((each) => new TextDecoder().decode(pair.get(each) ?? undefined));
    if (found.has(key))
      throw new BundleError(`${where}: its metadata has ${quoted(key)} twice; export the bundle again`);
    found.set(key, value);
  }
  return found;
}

/**
 * The fields of one protobuf message: number, and the bytes of those that have a length.
 *
 * @type {(bytes: Bytes, where: string) => Generator<[number, Bytes | null]>}
 */
function* fields(bytes, where) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[at++];
      if (byte === undefined) break;
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
    throw new BundleError(`${where}: not an ONNX file, or a damaged one; copy or export it again`);
  };
  while (at < bytes.length) {
    const tag = varint();
    const [field, wire] = [Math.floor(tag / 8), tag % 8];
    /** @type {Bytes | null} */
    let content = null;
    if (wire === 0) varint();
    else if (wire === 2) {
      const length = varint();
      content = bytes.subarray(at, at + length);
      at += length;
    } else at += wire === 1 ? 8 : wire === 5 ? 4 : Infinity;
    if (at > bytes.length)
      throw new BundleError(`${where}: not an ONNX file, or a damaged one; copy or export it again`);
    yield [field, content];
  }
}

/**
 * What an .onnx file says of itself, for those who have no manifest.
 *
 * @param {Map<string, string>} metadata From `readMetadata`.
 * @param {string} where
 * @returns {{role: Role, variant: string, precision: Precision, input: InputEntry, latentDim: number, score: string,
 *   threshold: number}}
 */
export function parseMetadata(metadata, where) {
  /** @type {(key: string) => string} */
  const get = (key) => {
    const value = metadata.get(`edgeae.${key}`);
    if (value !== undefined) return value;
    throw new BundleError(
      `${where}: not a graph of an edgeae bundle, its metadata has no edgeae.${key}; ` +
        "make one with: edgeae export, or edgeae adopt",
    );
  };
  /** @type {(key: string, text: string) => number} */
  const numberOf = (key, text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    if (Number.isFinite(value)) return value;
    throw new BundleError(`${where}: edgeae.${key} is ${quoted(text)}, expected a number`);
  };
  requireKnown(numberOf("format_version", get("format_version")), get("format_version"), where);
  const role = get("role");
  checkRole(role, `${where}: edgeae.role`);
  const names = metadata.get("edgeae.feature_names");
  const namesWhere = `${where}: edgeae.feature_names`;
  const input = {
    shape: get("input_shape")
      .split(",")
      .map((side) => numberOf("input_shape", side)),
    dtype: get("input_dtype"),
    layout: get("layout"),
    feature_names:
      names === undefined ? null : checkNames(parseJson(new TextEncoder().encode(names), namesWhere), namesWhere),
  };
  checkDtype(input.dtype, `${where}: edgeae.input_dtype`);
  checkLayout(input.layout, `${where}: edgeae.layout`);
  const latentDim = numberOf("latent_dim", get("latent_dim"));
  const row = /** @type {InputEntry} */ (input);
  checkRow(row, latentDim, where);
  return {
    role: /** @type {Role} */ (role),
    variant: get("variant"),
    precision: /** @type {Precision} */ (get("precision")),
    input: row,
    latentDim,
    score: get("score"),
    threshold: numberOf("threshold", get("threshold")),
  };
}
