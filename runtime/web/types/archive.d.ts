export type Bytes = Uint8Array<ArrayBuffer>;
export type NpyArray = {
    data: Float32Array | Uint8Array | Float64Array | Int32Array;
    dims: number[];
    type: string;
};
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
