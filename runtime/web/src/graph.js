// One graph of a bundle as a session of ONNX Runtime that takes and gives what it should.

import { BundleError, EdgeaeError, InputError, repr } from "./errors.js";
import { floatText } from "./json.js";
import { sizeOf } from "./manifest.js";
import { parseMetadata, readMetadata } from "./metadata.js";

/**
 * @typedef {import("onnxruntime-common").InferenceSession} Session
 * @typedef {import("./archive.js").Bytes} Bytes
 * @typedef {import("./edgeae.js").LoadOptions} LoadOptions
 * @typedef {import("./edgeae.js").Signature} Signature
 * @typedef {import("./manifest.js").Manifest} Manifest
 * @typedef {import("./manifest.js").Role} Role
 * @typedef {import("./rows.js").Checked} Checked
 * @typedef {import("./rows.js").RowSpec} RowSpec
 *
 * @typedef {object} Graph
 * @property {string} where
 * @property {LoadOptions["ort"]["Tensor"]} Tensor
 * @property {Session} session
 * @property {number | null} batch The fixed batch size, if it has one.
 * @property {RowSpec} spec What its rows must be.
 * @property {"z" | "x_hat" | "score"} target
 * @property {number[]} sides The shape of one result.
 */

/** What each graph reads and gives. */
export const TENSORS = /** @type {const} */ ({
  encoder: ["x", "z"],
  decoder: ["z", "x_hat"],
  scorer: ["x", "score"],
});
const CHUNK_BYTES = 2 ** 20;

/**
 * Hold the bytes of a graph against what its bundle says, and make a session of it.
 *
 * @param {Bytes} bytes
 * @param {Role} role
 * @param {string} where What to call it in messages.
 * @param {Signature} signature
 * @param {Manifest | null} manifest Null where there is nothing but this graph.
 * @param {{x: RowSpec, z: RowSpec}} specs
 * @param {LoadOptions} options
 * @returns {Promise<Graph>}
 */
export async function makeGraph(bytes, role, where, signature, manifest, specs, { ort, sessionOptions }) {
  checkMetadata(bytes, role, where, signature, manifest);
  /** @type {Session} */
  let session;
  try {
    session = await ort.InferenceSession.create(bytes, sessionOptions);
  } catch (problem) {
    throw new BundleError(`${where}: ONNX Runtime cannot load it: ${firstLine(problem)}`);
  }
  const [source, target] = TENSORS[role];
  const sides = { z: specs.z.shape, x_hat: specs.x.shape, score: [] }[target];
  const batch = checkTensors(session, where, specs[source], target, sides, manifest);
  return { where, Tensor: ort.Tensor, session, batch, spec: specs[source], target, sides };
}

/** @type {(bytes: Bytes, role: Role, where: string, says: Signature, manifest: Manifest | null) => void} */
function checkMetadata(bytes, role, where, says, manifest) {
  const found = parseMetadata(readMetadata(bytes, where), where);
  if (!manifest && found.role !== role) {
    throw new InputError(
      `${where}: is only the ${found.role} of a bundle; load ${role}.onnx, or the bundle's directory, for this`,
    );
  }
  /** @type {(names: readonly string[] | null | undefined) => string} */
  const listed = (names) => (names ? `(${names.map((name) => repr(name)).join(", ")}${names.length === 1 ? "," : ""})` : "None");
  /** @type {[string, string, string][]} */
  const pairs = [
    ["role", repr(found.role), repr(role)],
    ["variant", repr(found.variant), repr(says.variant)],
    ["precision", repr(found.precision), repr(says.precision)],
    ["input_shape", repr(found.input.shape.join()), repr(says.input.shape.join())],
    ["input_dtype", repr(found.input.dtype), repr(says.input.dtype)],
    ["layout", repr(found.input.layout), repr(says.input.layout)],
    ["latent_dim", repr(String(found.latentDim)), repr(String(says.latentDim))],
    ["score", repr(found.score), repr(says.score)],
    ["threshold", floatText(found.threshold), floatText(says.threshold)],
    ["feature_names", listed(found.input.feature_names), listed(says.input.feature_names)],
  ];
  for (const [key, value, wanted] of pairs) {
    if (value === wanted) continue;
    throw new BundleError(
      `${where}: its metadata says edgeae.${key} = ${value}, the manifest says ${wanted}; export the bundle again`,
    );
  }
}

/**
 * Hold a session against what it must take and give; returns its fixed batch, if it has one.
 *
 * @param {Session} session
 * @param {string} where
 * @param {RowSpec} spec
 * @param {Graph["target"]} target
 * @param {number[]} sides
 * @param {Manifest | null} manifest
 */
function checkTensors(session, where, spec, target, sides, manifest) {
  const [input, output] = [session.inputMetadata[0], session.outputMetadata[0]];
  const first = input?.isTensor ? input.shape[0] : null;
  const batch = manifest ? manifest.batch : typeof first === "number" ? first : null;
  for (const [what, names, name, found, type, row] of /** @type {const} */ ([
    ["input", session.inputNames, spec.name, input, spec.dtype, spec.shape],
    ["output", session.outputNames, target, output, "float32", sides],
  ])) {
    const start = `${where}: a graph that edgeae does not run: its ${what}`;
    if (names.length !== 1 || names[0] !== name) throw new BundleError(`${start}s are [${names}], expected [${name}]`);
    const wanted = `${type} [${[batch ?? "batch", ...row]}]`;
    const has = found.isTensor ? `${found.type} [${found.shape}]` : "no tensor";
    if (has !== wanted) throw new BundleError(`${start} '${name}' is ${has}, expected ${wanted}`);
  }
  return batch;
}

/**
 * Run all rows through a graph, a chunk at a time.
 *
 * @param {Graph} graph
 * @param {Checked} rows
 * @returns {Promise<Float32Array>}
 */
export async function through(graph, { data, n }) {
  const { spec, batch } = graph;
  const size = sizeOf(spec.shape);
  const width = sizeOf(graph.sides);
  const chunk = batch ?? Math.max(1, Math.min(4096, Math.floor(CHUNK_BYTES / (4 * size))));
  if (n === chunk || (n > 0 && n < chunk && !batch)) return call(graph, data, n);
  const result = new Float32Array(n * width);
  for (let start = 0; start < n; start += chunk) {
    let part = data.subarray(start * size, Math.min(n, start + chunk) * size);
    if (batch && part.length < chunk * size) {
      const padded = data instanceof Uint8Array ? new Uint8Array(chunk * size) : new Float32Array(chunk * size);
      for (let row = 0; row < chunk; row++) padded.set(spec.filler, row * size);
      padded.set(part);
      part = padded;
    }
    const values = await call(graph, part, part.length / size);
    result.set(values.subarray(0, Math.min(n - start, chunk) * width), start * width);
  }
  return result;
}

/** @type {(graph: Graph, data: Float32Array | Uint8Array, n: number) => Promise<Float32Array>} */
async function call({ where, Tensor, session, spec, target }, data, n) {
  const dims = [n, ...spec.shape];
  const tensor = data instanceof Uint8Array ? new Tensor("uint8", data, dims) : new Tensor("float32", data, dims);
  try {
    const results = await session.run({ [spec.name]: tensor });
    return /** @type {Float32Array} */ (await results[target].getData());
  } catch (problem) {
    throw new EdgeaeError(`${where}: failed: ${firstLine(problem)}`);
  }
}

/** @type {(problem: unknown) => string} */
const firstLine = (problem) => String(problem instanceof Error ? problem.message : problem).split("\n")[0];
