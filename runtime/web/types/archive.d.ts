export type Bytes = Uint8Array<ArrayBuffer>;
export type Values = Int8Array | Int16Array | Int32Array | Uint8Array | Uint16Array | Uint32Array | Float32Array | Float64Array;
export type NpyArray = {
    data: Values;
    dims: number[];
    type: string;
};
export declare const MAX_BUNDLE_BYTES: number;
/** Refuse a name that is not a plain relative path. @type {(name: string, where: string) => void} */
export declare function checkName(name: string, where: string): void;
/** Whether the system left this file behind. @type {(name: string) => boolean} */
export declare const isLitter: (name: string) => boolean;
/**
 * Unpack a .zip in memory: stored or deflated files whose directory, local headers and bytes agree.
 *
 * @param {Bytes} bytes
 * @param {string} where
 * @param {number} [budget] Bytes that all files may have together.
 * @param {number} [ratio] How many times larger than the archive they may be, the first MiB apart.
 * @returns {Promise<Map<string, Bytes>>}
 */
export declare function readZip(bytes: Bytes, where: string, budget?: number, ratio?: number): Promise<Map<string, Bytes>>;
/**
 * Read the arrays of an .npz file.
 *
 * @param {Bytes} bytes
 * @param {string} where
 * @returns {Promise<Map<string, NpyArray>>}
 */
export declare function readNpz(bytes: Bytes, where: string): Promise<Map<string, NpyArray>>;
