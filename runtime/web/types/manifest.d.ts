export type FileEntry = {
    path: string;
    size: number;
    sha256: string;
};
export type Tolerance = {
    rtol: number;
    atol: number;
};
export type Role = "encoder" | "decoder" | "scorer";
export type Precision = "fp32" | "fp16" | "int8";
export type Layout = "vector" | "HW" | "CHW" | "HWC" | "TC";
export type PrecisionEntry = {
    encoder: FileEntry;
    decoder: FileEntry;
    scorer: FileEntry;
    golden: FileEntry;
    threshold: {
        value: number;
        method: string;
        fpr?: number | null;
        rows?: number;
        interval?: number[] | null;
        recall?: number | null;
    };
    tolerance: {
        z: Tolerance;
        x_hat: Tolerance;
        score: Tolerance;
    };
    quality: Record<string, unknown>;
};
export type SeriesEntry = {
    stride?: number;
    channel_names?: string[] | null;
    period?: number | null;
    resampled?: boolean;
    label?: "any" | "last";
};
export type InputEntry = {
    shape: number[];
    dtype: "float32" | "uint8";
    layout: Layout;
    feature_names?: string[] | null;
    minimum?: number | null;
    maximum?: number | null;
    series?: SeriesEntry | null;
};
export type Manifest = {
    format: string;
    format_version: number;
    name: string;
    created: string;
    producer: Record<string, string>;
    variant: string;
    description: string;
    parameters: number;
    latent_dim: number;
    input: InputEntry;
    normalisation: {
        kind: string;
        shift: number[];
        scale: number[];
    };
    score: {
        kind: "mse" | "mae" | "bce" | "zscore" | "mahalanobis" | "prototype" | "elbo";
        decoder_variance?: number | null;
    };
    batch: number | null;
    opset: number;
    ir_version: number;
    precisions: Partial<Record<Precision, PrecisionEntry>>;
    generative?: boolean;
    statistics?: FileEntry | null;
    training?: Record<string, unknown> | null;
};
export type Bytes = import("./archive.js").Bytes;
export type Json = import("./json.js").Json;
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
export declare const FORMAT_VERSION = 1;
export declare const MAX_FILE_BYTES: number;
export type Check = (value: Json, where: string) => any;
export declare const checkRole: Check;
export declare const checkDtype: Check;
export declare const checkLayout: Check;
export declare const checkNames: Check;
/**
 * Parse and check the bytes of a manifest.json, as strictly and in the same order as Python.
 *
 * @param {Bytes} bytes
 * @param {string} where What to call it in messages.
 * @returns {Manifest}
 */
export declare function parseManifest(bytes: Bytes, where: string): Manifest;
/** @type {(version: number, written: string, where: string) => void} */
export declare function requireKnown(version: number, written: string, where: string): void;
/** @type {(row: InputEntry, latent: number, where: string) => void} */
export declare function checkRow(row: InputEntry, latent: number, where: string): void;
/** All files that a manifest lists. @type {(manifest: Manifest) => FileEntry[]} */
export declare function listedFiles(manifest: Manifest): FileEntry[];
/**
 * The normalisation's shift and scale for every value of a row, in the row's order.
 *
 * @type {(manifest: Manifest) => {shift: Float32Array, scale: Float32Array}}
 */
export declare function normalisationOf(manifest: Manifest): {
    shift: Float32Array<ArrayBufferLike>;
    scale: Float32Array<ArrayBufferLike>;
};
/** How many values an array of this shape has. @type {(shape: readonly number[]) => number} */
export declare const sizeOf: (shape: readonly number[]) => number;
