export type Statistics = {
    spread?: Float32Array;
    centre?: Float32Array;
    whitening?: Float32Array;
    prototypes?: Float32Array;
};
/**
 * Arrays of the bundle: for "zscore" the errors' usual size, value by value; for "mahalanobis" and "prototype" their mean
 * and the square root of their inverse covariance [values, values]; for "prototype" also typical rows [k, values] and how
 * far from them values usually are.
 *
 * @typedef {{spread?: Float32Array, centre?: Float32Array, whitening?: Float32Array, prototypes?: Float32Array}} Statistics
 */
/**
 * What each value of each row contributes to the row's score.
 *
 * For "elbo" the values are nats and add up to the reconstruction term; for all others the mean over a row is its score.
 */
export declare class Explanation {
    /** @readonly */ data: Float32Array<ArrayBufferLike>;
    /** @readonly */ dims: number[];
    /** @readonly */ names: readonly string[] | null;
    /**
     * @param {Float32Array} data [n, *inputShape], in normalised space.
     * @param {number[]} dims
     * @param {readonly string[] | null} names One per value of a row, where there are names; of a window, one per channel.
     */
    constructor(data: Float32Array, dims: number[], names: readonly string[] | null);
    /**
     * For each row the k largest contributions with their names, largest first; values without names are called by their
     * place: "3", or "7, 12" in an image; those of a window by channel and step, counted from 0: "pressure @ 12".
     *
     * @param {number} [k]
     * @returns {[string, number][][]}
     */
    top(k?: number): [string, number][][];
}
/**
 * Each value's part of the score: the arithmetic of the scorer graph, from the user's units.
 *
 * @param {import("./manifest.js").Manifest} manifest
 * @param {Statistics} statistics
 * @param {Float32Array | Uint8Array} x [n, *inputShape]
 * @param {Float32Array} reconstructed [n, *inputShape]
 * @returns {Float32Array}
 */
export declare function contributions(manifest: import("./manifest.js").Manifest, statistics: Statistics, x: Float32Array | Uint8Array, reconstructed: Float32Array): Float32Array;
