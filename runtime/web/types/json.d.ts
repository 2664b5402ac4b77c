export type Bytes = import("./archive.js").Bytes;
/** A number as it was written: 4 and 4.0 are not the same. */
export declare class JsonNumber {
    word: string;
    whole: boolean;
    /** Infinite where a whole number is beyond float64. */
    value: number;
    /** @param {string} word */
    constructor(word: string);
}
export type Json = null | boolean | string | JsonNumber | Json[] | Map<string, Json>;
/** @typedef {null | boolean | string | JsonNumber | Json[] | Map<string, Json>} Json */
/**
 * Parse JSON that every parser understands alike: no key twice, no number beyond float64, bounded depth and amount.
 *
 * @param {Bytes} bytes
 * @param {string} where What to call it in messages.
 * @returns {Json}
 */
export declare function parseJson(bytes: Bytes, where: string): Json;
/** As Python's repr writes it, shortened. @type {(value: Json | number | bigint | undefined) => string} */
export declare function shown(value: number | bigint | Json | undefined): string;
/** A finite number as Python writes a float. @type {(value: number) => string} */
export declare function floatText(value: number): string;
