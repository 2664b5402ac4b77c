import { Explanation } from "./explain.js";
export { BundleError, EdgeaeError, InputError, IntegrityError } from "./errors.js";
export { Explanation } from "./explain.js";
export type Ort = typeof import("onnxruntime-common");
export type Graph = import("./graph.js").Graph;
export type Bytes = import("./archive.js").Bytes;
export type NpyArray = import("./archive.js").NpyArray;
export type InputEntry = import("./manifest.js").InputEntry;
export type Manifest = import("./manifest.js").Manifest;
export type Precision = import("./manifest.js").Precision;
export type PrecisionEntry = import("./manifest.js").PrecisionEntry;
export type Role = import("./manifest.js").Role;
export type Checked = import("./rows.js").Checked;
export type Rows = import("./rows.js").Rows;
export type RowSpec = import("./rows.js").RowSpec;
export type Opened = import("./source.js").Opened;
export type Source = import("./source.js").Source;
export type Result = {
    data: Float32Array;
    dims: number[];
};
export type LoadOptions = {
    /**
     * The onnxruntime-web or onnxruntime-node module.
     */
    ort: Pick<Ort, "InferenceSession" | "Tensor" | "env">;
    /**
     * "fp32" if not given, or "fp16" or "int8" where the bundle has them.
     */
    precision?: Precision;
    /**
     * What to do with rows that hold NaN, infinity or values beyond float32:
     * throw, or give such rows NaN as their result (and so predict an anomaly).
     */
    onInvalid?: "raise" | "flag";
    /**
     * Passed to ONNX Runtime,
     * for instance `{executionProviders: ["webgpu"]}`.
     */
    sessionOptions?: import("onnxruntime-common").InferenceSession.SessionOptions;
    /**
     * Whether to hold files against the manifest's SHA-256.
     */
    integrity?: "check" | "skip";
};
export type Signature = {
    variant: string;
    precision: Precision;
    input: InputEntry;
    latentDim: number;
    score: string;
    threshold: number;
};
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
export declare function load(source: Source, options: LoadOptions): Promise<Autoencoder>;
/** A bundle ready to run; made by `load`. Calls are carried out one after the other, in the order they were made. */
export declare class Autoencoder {
    #private;
    /** @readonly What the bundle promises; null where there is only one graph. */
    manifest: import("./manifest.js").Manifest | null;
    /**
     * Use `load`.
     *
     * @param {Opened} opened
     * @param {LoadOptions} options
     * @param {Signature} signature
     * @param {Manifest | null} manifest
     */
    constructor(opened: Opened, options: LoadOptions, signature: Signature, manifest: Manifest | null);
    /** The shape of one row. */
    get inputShape(): number[];
    /** What an element of a row is: "float32", or "uint8". */
    get inputDtype(): "float32" | "uint8";
    /** How the axes of a row are ordered: "vector", "HW", "CHW", "HWC" or "TC". */
    get layout(): import("./manifest.js").Layout;
    /** One name per value of a row, where the bundle has names. */
    get featureNames(): string[] | null;
    /** How many values a latent has. */
    get latentDim(): number;
    /** Scores above it are anomalies; each precision has its own. */
    get threshold(): number;
    /** Which of the bundle's graphs run. */
    get precision(): import("./manifest.js").Precision;
    /** Which error the score is: "mse", "mae", "bce", "zscore", "mahalanobis", "prototype" or "elbo". */
    get scoreKind(): string;
    /** "dense", "convolutional", ... */
    get variant(): string;
    /** The latents [n, latentDim] of rows. @param {Rows} x @returns {Promise<Result>} */
    encode(x: Rows): Promise<Result>;
    /**
     * The rows [n, *inputShape], in the units of the training data, of latents.
     *
     * @param {Rows} z
     * @returns {Promise<Result>}
     */
    decode(z: Rows): Promise<Result>;
    /** `decode(encode(x))`. @param {Rows} x @returns {Promise<Result>} */
    reconstruct(x: Rows): Promise<Result>;
    /**
     * The anomaly scores of rows, one per row; higher is more anomalous.
     *
     * @param {Rows} x
     * @returns {Promise<Float32Array>}
     */
    score(x: Rows): Promise<Float32Array>;
    /**
     * Which rows are anomalies: `!(score <= threshold)`, so that NaN is one.
     *
     * @param {Rows} x
     * @returns {Promise<boolean[]>}
     */
    predict(x: Rows): Promise<boolean[]>;
    /** Apply the threshold to scores that are there already. @param {ArrayLike<number>} scores @returns {boolean[]} */
    isAnomaly(scores: ArrayLike<number>): boolean[];
    /**
     * What each value of each row contributes to the row's score; `.top(3)` names the largest ones.
     *
     * @param {Rows} x
     * @returns {Promise<Explanation>}
     */
    explain(x: Rows): Promise<Explanation>;
    /**
     * Load and test graphs now rather than at their first use.
     *
     * @param {...Role} roles All that the bundle has if none is named.
     * @returns {Promise<void>}
     */
    prepare(...roles: Role[]): Promise<void>;
    /**
     * The golden rows: inputs and what they must give.
     *
     * @returns {Promise<{x: NpyArray, z: NpyArray, x_hat: NpyArray, score: NpyArray}>}
     */
    golden(): Promise<{
        x: NpyArray;
        z: NpyArray;
        x_hat: NpyArray;
        score: NpyArray;
    }>;
    /** Free the sessions. Using the model afterwards throws. @returns {Promise<void>} */
    close(): Promise<void>;
}
