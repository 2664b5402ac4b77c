export type Bytes = import("./archive.js").Bytes;
export type InputEntry = import("./manifest.js").InputEntry;
export type Precision = import("./manifest.js").Precision;
export type Role = import("./manifest.js").Role;
/**
 * Read the metadata of an ONNX file.
 *
 * @param {Bytes} bytes
 * @param {string} where
 * @returns {Map<string, string>}
 */
export declare function readMetadata(bytes: Bytes, where: string): Map<string, string>;
/**
 * What an .onnx file says of itself, for those who have no manifest.
 *
 * @param {Map<string, string>} metadata From `readMetadata`.
 * @param {string} where
 * @returns {{role: Role, variant: string, precision: Precision, input: InputEntry, latentDim: number, score: string,
 *   threshold: number}}
 */
export declare function parseMetadata(metadata: Map<string, string>, where: string): {
    role: Role;
    variant: string;
    precision: Precision;
    input: InputEntry;
    latentDim: number;
    score: string;
    threshold: number;
};
