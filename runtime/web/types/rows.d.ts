export type NumberArray = Float32Array | Float64Array | Uint8Array | Uint8ClampedArray | Int8Array | Uint16Array | Int16Array | Uint32Array | Int32Array;
export type Nested = number | boolean | NumberArray | readonly Nested[];
export type WithDims = {
    readonly data: unknown;
    readonly dims: readonly number[];
};
export type Rows = NumberArray | readonly Nested[] | WithDims;
export type RowSpec = {
    name: "x" | "z";
    /**
     * One row.
     */
    shape: number[];
    /**
     * What the graph reads.
     */
    dtype: "float32" | "uint8";
    layout: string;
    /**
     * One per value, where there are names.
     */
    names: readonly string[] | null;
    /**
     * A harmless row, which takes the place of an invalid one.
     */
    filler: Float32Array;
};
export type Checked = {
    /**
     * All rows as the graph reads them.
     */
    data: Float32Array | Uint8Array;
    n: number;
    /**
     * Which rows were replaced.
     */
    bad: Set<number>;
};
/**
 * Check shape, type and values of rows, and convert them if they are not yet what the graph reads.
 *
 * @param {Rows} value
 * @param {RowSpec} spec
 * @param {boolean} flag Replace rows with values that are not finite, instead of refusing them.
 * @returns {Checked}
 */
export declare function checkRows(value: Rows, spec: RowSpec, flag: boolean): Checked;
/**
 * Where the value with this index is in an array of this shape.
 *
 * @type {(index: number, shape: readonly number[]) => number[]}
 */
export declare function placeOf(index: number, shape: readonly number[]): number[];
