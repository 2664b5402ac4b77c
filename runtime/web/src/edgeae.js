// A bundle of edgeae in JavaScript: encode, decode, reconstruct, score, predict, explain.
//
// The caller brings ONNX Runtime: onnxruntime-web in browsers, onnxruntime-node (or -web) on Node.
//
//   import * as ort from "onnxruntime-web/wasm";
//   import { load } from "./edgeae.js";
//   const model = await load("bundle/", { ort });
//   const scores = await model.score([[0.1, 20.5, 3.2]]); // Float32Array, higher is more anomalous

import { readNpz } from "./archive.js";
import { BundleError, EdgeaeError, InputError, repr, someOf, tupleOf } from "./errors.js";
import { Explanation, contributions } from "./explain.js";
import { TENSORS, makeGraph, through } from "./graph.js";
import { floatText } from "./json.js";
import { listedFiles, MAX_FILE_BYTES, normalisationOf, parseManifest, sizeOf } from "./manifest.js";
import { parseMetadata, readMetadata } from "./metadata.js";
import { checkRows } from "./rows.js";
import { checkDigest, openSource } from "./source.js";

const MAX_MANIFEST_BYTES = 8 * 2 ** 20;
const MAX_GOLDEN_ROWS = 256;

export { BundleError, EdgeaeError, InputError, IntegrityError } from "./errors.js";
export { Explanation } from "./explain.js";

/**
 * @typedef {typeof import("onnxruntime-common")} Ort
 * @typedef {import("./graph.js").Graph} Graph
 * @typedef {import("./archive.js").Bytes} Bytes
 * @typedef {import("./archive.js").NpyArray} NpyArray
 * @typedef {import("./manifest.js").InputEntry} InputEntry
 * @typedef {import("./manifest.js").Manifest} Manifest
 * @typedef {import("./manifest.js").Precision} Precision
 * @typedef {import("./manifest.js").PrecisionEntry} PrecisionEntry
 * @typedef {import("./manifest.js").Role} Role
 * @typedef {import("./rows.js").Checked} Checked
 * @typedef {import("./rows.js").Rows} Rows
 * @typedef {import("./rows.js").RowSpec} RowSpec
 * @typedef {import("./source.js").Opened} Opened
 * @typedef {import("./source.js").Source} Source
 * @typedef {{data: Float32Array, dims: number[]}} Result Values [n, ...] one row after the other.
 *
 * @typedef {object} LoadOptions
 * @property {Pick<Ort, "InferenceSession" | "Tensor" | "env">} ort The onnxruntime-web or onnxruntime-node module.
 * @property {Precision} [precision] "fp32" if not given, or "fp16" or "int8" where the bundle has them.
 * @property {"raise" | "flag"} [onInvalid] What to do with rows that hold NaN, infinity or values beyond float32:
 *   throw, or give such rows NaN as their result (and so predict an anomaly).
 * @property {import("onnxruntime-common").InferenceSession.SessionOptions} [sessionOptions] Passed to ONNX Runtime,
 *   for instance `{executionProviders: ["webgpu"]}`.
 * @property {"check" | "skip"} [integrity] Whether to hold files against the manifest's SHA-256.
 *
 * @typedef {object} Signature What a bundle, or one graph of it, says that it takes and gives.
 * @property {string} variant
 * @property {Precision} precision
 * @property {InputEntry} input
 * @property {number} latentDim
 * @property {string} score
 * @property {number} threshold
 */

/**
 * Load a bundle, or one graph of a bundle.
 *
 * Graphs are read, compared with the manifest and tested on the golden rows when they are first used (or by
 * `model.prepare`). One .onnx file alone is enough for what that graph does: everything needed stands in its metadata.
 *
 * @param {Source} source See `Source`: an address, bytes, or files by name.
 * @param {LoadOptions} options
 * @returns {Promise<Autoencoder>}
 * @throws {BundleError} if there is no bundle or it is not as export/FORMAT.md has it
 * @throws {InputError} if an option is none of the above
 */
export async function load(source, options) {
  const { ort, precision = "fp32", onInvalid = "raise", integrity = "check" } = options ?? {};
  if (!ort?.InferenceSession || !ort.Tensor) {
    throw new InputError("load: pass the onnxruntime-web or onnxruntime-node module as {ort}");
  }
  if (!["raise", "flag"].includes(onInvalid))
    throw new InputError(`onInvalid: '${onInvalid}' is not one of raise, flag`);
  if (!["check", "skip"].includes(integrity))
    throw new InputError(`integrity: '${integrity}' is not one of check, skip`);
  const opened = await openSource(source);
  if (opened.single) {
    const found = parseMetadata(readMetadata(opened.single, opened.where), opened.where);
    if (options.precision && options.precision !== found.precision) {
      throw new InputError(`${opened.where}: holds a graph at precision '${found.precision}', not '${precision}'`);
    }
    const model = new Autoencoder(opened, options, found, null);
    await model.prepare(found.role);
    return model;
  }
  const manifest = parseManifest(await opened.read("manifest.json", MAX_MANIFEST_BYTES), `${opened.where}/manifest.json`);
  const listed = new Set(["manifest.json", ...listedFiles(manifest).map((file) => file.path)]);
  const unknown = [...(opened.names ?? [])].filter((name) => !listed.has(name)).sort();
  if (unknown.length) {
    throw new BundleError(
      `${opened.where}: the manifest does not list ${someOf(unknown)}; a bundle holds nothing else: ` +
        "remove what is not its own, or export it again",
    );
  }
  const entry = manifest.precisions[precision];
  if (!entry) {
    const held = Object.keys(manifest.precisions).join(", ");
    const known = ["fp32", "fp16", "int8"].includes(precision) ? "" : " (known precisions: fp32, fp16, int8)";
    throw new InputError(
      `${opened.where}: holds no graphs at precision ${repr(String(precision))}${known}; choose ${held}, or export it ` +
        "again with another --precision",
    );
  }
  const signature = {
    variant: manifest.variant,
    precision,
    input: manifest.input,
    latentDim: manifest.latent_dim,
    score: manifest.score.kind,
    threshold: entry.threshold.value,
  };
  return new Autoencoder(opened, options, signature, manifest);
}

/** A bundle ready to run; made by `load`. Calls are carried out one after the other, in the order they were made. */
export class Autoencoder {
  /** @type {Opened} */ #opened;
  /** @type {LoadOptions} */ #options;
  /** @type {Signature} */ #signature;
  /** @type {Map<Role, Promise<Graph>>} */ #graphs = new Map();
  /** @type {Promise<Map<string, NpyArray>> | null} */ #golden = null;
  /** @type {Promise<unknown>} */ #last = Promise.resolve();
  /** @type {RowSpec} */ #x;
  /** @type {RowSpec} */ #z;
  #closed = false;

  /**
   * Use `load`.
   *
   * @param {Opened} opened
   * @param {LoadOptions} options
   * @param {Signature} signature
   * @param {Manifest | null} manifest
   */
  constructor(opened, options, signature, manifest) {
    this.#opened = opened;
    this.#options = options;
    this.#signature = signature;
    /** @readonly What the bundle promises; null where there is only one graph. */
    this.manifest = manifest;
    const { shape, dtype, layout, feature_names: names } = signature.input;
    // A replaced row is zero in normalised space, so that it widens no quantised graph's range.
    let filler = manifest ? normalisationOf(manifest).shift : new Float32Array(sizeOf(shape));
    if (dtype === "uint8") filler = filler.map((value) => Math.min(255, Math.max(0, Math.round(value))));
    this.#x = { name: "x", shape: [...shape], dtype, layout, names: names ?? null, filler };
    const latent = [signature.latentDim];
    this.#z = {
      name: "z",
      shape: latent,
      dtype: "float32",
      layout: "vector",
      names: null,
      filler: new Float32Array(latent[0]),
    };
  }

  /** The shape of one row. */
  get inputShape() {
    return [...this.#x.shape];
  }
  /** What an element of a row is: "float32", or "uint8". */
  get inputDtype() {
    return this.#x.dtype;
  }
  /** How the axes of a row are ordered: "vector", "HW", "CHW", "HWC" or "TC". */
  get layout() {
    return this.#signature.input.layout;
  }
  /** One name per value of a row, where the bundle has names. */
  get featureNames() {
    return this.#x.names && [...this.#x.names];
  }
  /** How many values a latent has. */
  get latentDim() {
    return this.#signature.latentDim;
  }
  /** Scores above it are anomalies; each precision has its own. */
  get threshold() {
    return this.#signature.threshold;
  }
  /** Which of the bundle's graphs run. */
  get precision() {
    return this.#signature.precision;
  }
  /** Which error the score is: "mse", "mae", "bce", "zscore", "mahalanobis", "prototype" or "elbo". */
  get scoreKind() {
    return this.#signature.score;
  }
  /** "dense", "convolutional", ... */
  get variant() {
    return this.#signature.variant;
  }

  /** The latents [n, latentDim] of rows. @param {Rows} x @returns {Promise<Result>} */
  encode(x) {
    return this.#run(["encoder"], x);
  }
  /**
   * The rows [n, *inputShape], in the units of the training data, of latents.
   *
   * @param {Rows} z
   * @returns {Promise<Result>}
   */
  decode(z) {
    return this.#run(["decoder"], z);
  }
  /** `decode(encode(x))`. @param {Rows} x @returns {Promise<Result>} */
  reconstruct(x) {
    return this.#run(["encoder", "decoder"], x);
  }
  /**
   * The anomaly scores of rows, one per row; higher is more anomalous.
   *
   * @param {Rows} x
   * @returns {Promise<Float32Array>}
   */
  async score(x) {
    return (await this.#run(["scorer"], x)).data;
  }
  /**
   * Which rows are anomalies: `!(score <= threshold)`, so that NaN is one.
   *
   * @param {Rows} x
   * @returns {Promise<boolean[]>}
   */
  async predict(x) {
    return this.isAnomaly(await this.score(x));
  }
  /** Apply the threshold to scores that are there already. @param {ArrayLike<number>} scores @returns {boolean[]} */
  isAnomaly(scores) {
    return Array.from(scores, (score) => !(Math.fround(score) <= this.threshold));
  }

  /**
   * What each value of each row contributes to the row's score; `.top(3)` names the largest ones.
   *
   * @param {Rows} x
   * @returns {Promise<Explanation>}
   */
  async explain(x) {
    const { manifest } = this;
    if (!manifest)
      throw new InputError(`${this.#opened.where}: is only one graph of a bundle; load the bundle for this`);
    const rows = checkRows(x, this.#x, this.#flag);
    const { data, dims } = await this.#inTurn(["encoder", "decoder"], rows);
    return new Explanation(
      contributions(manifest, await this.#statistics(manifest), rows.data, data),
      dims,
      this.#x.names ?? manifest.input.series?.channel_names ?? null,
    );
  }

  /**
   * What the score needs of normal rows.
   *
   * @param {Manifest} manifest
   * @returns {Promise<import("./explain.js").Statistics>}
   */
  async #statistics(manifest) {
    const { shape } = this.#x;
    const size = sizeOf(shape);
    /** @type {Record<string, Record<string, readonly number[]>>} */
    const needs = { zscore: { spread: shape }, mahalanobis: { centre: shape, whitening: [size, size] } };
    needs.prototype = { ...needs.mahalanobis, spread: shape, prototypes: [NaN, size] };
    const { kind } = manifest.score;
    const file = manifest.statistics;
    const arrays = kind in needs && file ? await readNpz(await this.#file(file), this.#where(file)) : new Map();
    return Object.fromEntries(
      Object.entries(needs[kind] ?? {}).map(([name, wanted]) => {
        const found = arrays.get(name);
        if (found?.type !== "float32" || found.dims.join() !== wanted.map((side, axis) => side || found.dims[axis] || 1).join()) {
          throw new BundleError(`statistics: the score is ${kind}, but no '${name}' of the shape [${wanted}] is there`);
        }
        return [name, /** @type {Float32Array} */ (found.data)];
      }),
    );
  }

  /**
   * Load and test graphs now rather than at their first use.
   *
   * @param {...Role} roles All that the bundle has if none is named.
   * @returns {Promise<void>}
   */
  async prepare(...roles) {
    for (const role of roles.length ? roles : this.#roles()) {
      if (!Object.hasOwn(TENSORS, role)) {
        throw new InputError(`prepare: '${role}' is not one of ${Object.keys(TENSORS).join(", ")}`);
      }
      await this.#graph(role);
    }
  }

  /**
   * The golden rows: inputs and what they must give.
   *
   * @returns {Promise<{x: NpyArray, z: NpyArray, x_hat: NpyArray, score: NpyArray}>}
   */
  async golden() {
    const entry = this.#entry();
    if (!entry) throw new InputError(`${this.#opened.where}: is only one graph of a bundle; load the bundle for this`);
    this.#golden ??= this.#readGolden(entry);
    const found = await this.#golden;
    return /** @type {any} */ (Object.fromEntries(found));
  }

  /** Free the sessions. Using the model afterwards throws. @returns {Promise<void>} */
  async close() {
    this.#closed = true;
    const graphs = [...this.#graphs.values()];
    this.#graphs.clear();
    await this.#last.catch(() => {});
    for (const graph of graphs)
      await graph.then(
        ({ session }) => session.release(),
        () => {},
      );
  }

  get #flag() {
    return this.#options.onInvalid === "flag";
  }

  get #device() {
    const [first = "cpu"] = this.#options.sessionOptions?.executionProviders ?? [];
    return typeof first === "string" ? first : first.name;
  }

  /** @returns {PrecisionEntry | undefined} */
  #entry() {
    return this.manifest?.precisions[this.precision];
  }

  /** @returns {Role[]} */
  #roles() {
    return this.manifest ? ["encoder", "decoder", "scorer"] : [...this.#graphs.keys()];
  }

  /** @param {import("./manifest.js").FileEntry} file */
  #where(file) {
    return `${this.#opened.where}/${file.path}`;
  }

  /** @param {import("./manifest.js").FileEntry} file @returns {Promise<Bytes>} */
  async #file(file) {
    const bytes = await this.#opened.read(file.path, MAX_FILE_BYTES, this.#options.integrity === "skip" ? undefined : file.size);
    if (this.#options.integrity !== "skip") await checkDigest(bytes, file, this.#where(file));
    return bytes;
  }

  /** @param {PrecisionEntry} entry */
  async #readGolden(entry) {
    const where = this.#where(entry.golden);
    const arrays = await readNpz(await this.#file(entry.golden), where);
    const n = arrays.get("score")?.data.length ?? 0;
    const names = [...arrays.keys()].sort();
    if (names.join() !== "score,x,x_hat,z" || n < 1 || n > MAX_GOLDEN_ROWS) {
      throw new BundleError(
        `${where}: holds ${someOf(names)} of ${n} rows, expected x, z, x_hat, score of 1 to ${MAX_GOLDEN_ROWS} rows; ` +
          "export the bundle again",
      );
    }
    const { shape, dtype } = this.#x;
    const wanted = { x: shape, z: [this.latentDim], x_hat: shape, score: [] };
    for (const [name, row] of Object.entries(wanted)) {
      const found = /** @type {NpyArray} */ (arrays.get(name));
      const [type, dims] = [name === "x" ? dtype : "float32", [n, ...row]];
      if (found.type !== type || found.dims.join() !== dims.join()) {
        throw new BundleError(
          `${where}: ${name} is ${found.type} ${tupleOf(found.dims)}, expected ${type} ${tupleOf(dims)}`,
        );
      }
    }
    return arrays;
  }

  /** The graph of `role`, loaded and tested when it is first needed. @param {Role} role @returns {Promise<Graph>} */
  #graph(role) {
    if (this.#closed) throw new EdgeaeError(`${this.#opened.where}: this model was closed; load it again`);
    let graph = this.#graphs.get(role);
    if (!graph) {
      graph = this.#make(role);
      this.#graphs.set(role, graph);
      graph.catch(() => this.#graphs.delete(role)); // so that the next call tries again
    }
    return graph;
  }

  /** @param {Role} role @returns {Promise<Graph>} */
  async #make(role) {
    const entry = this.#entry();
    const where = entry ? this.#where(entry[role]) : this.#opened.where;
    const bytes = entry ? await this.#file(entry[role]) : /** @type {Bytes} */ (this.#opened.single);
    const specs = { x: this.#x, z: this.#z };
    const graph = await makeGraph(bytes, role, where, this.#signature, this.manifest, specs, this.#options);
    if (entry) await this.#selfTest(graph, entry);
    return graph;
  }

  /**
   * Run the golden rows: a graph that computes something else must not answer.
   *
   * @param {Graph} graph
   * @param {PrecisionEntry} entry
   */
  async #selfTest(graph, entry) {
    const golden = await this.golden();
    const { data, dims } = golden[graph.spec.name];
    const rows = checkRows({ data, dims }, graph.spec, true);
    const wanted = /** @type {Float32Array} */ (golden[graph.target].data);
    const found = await through(graph, rows);
    const { rtol, atol } = entry.tolerance[graph.target];
    for (let index = 0; index < wanted.length; index++) {
      if (Math.abs(found[index] - wanted[index]) <= atol + rtol * Math.abs(wanted[index])) continue;
      const row = Math.floor(index / (wanted.length / dims[0]));
      const [must, gives] = [wanted[index], found[index]].map((value) =>
        Number.isFinite(value) ? floatText(value) : String(value),
      );
      throw new BundleError(
        `${graph.where}: self-test failed on ${this.#device}: golden row ${row} must give ${graph.target} ${must}, ` +
          `gives ${gives}; check the bundle with: edgeae verify ${this.#opened.where}`,
      );
    }
  }

  /** @param {Role[]} roles @param {Rows} value @returns {Promise<Result>} */
  async #run(roles, value) {
    return this.#inTurn(roles, checkRows(value, roles[0] === "decoder" ? this.#z : this.#x, this.#flag));
  }

  /** @param {Role[]} roles @param {Checked} rows @returns {Promise<Result>} */
  async #inTurn(roles, rows) {
    const turn = this.#last.then(async () => {
      let data = rows.data;
      for (const role of roles) data = await through(await this.#graph(role), { ...rows, data });
      return /** @type {Float32Array} */ (data);
    });
    this.#last = turn.catch(() => {});
    const data = await turn;
    const sides = { encoder: this.#z.shape, decoder: this.#x.shape, scorer: [] }[roles[roles.length - 1]];
    const size = sizeOf(sides);
    for (const row of rows.bad) data.fill(NaN, row * size, (row + 1) * size);
    return { data, dims: [rows.n, ...sides] };
  }
}
