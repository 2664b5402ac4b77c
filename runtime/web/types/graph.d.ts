export type Session = import("onnxruntime-common").InferenceSession;
export type Bytes = import("./archive.js").Bytes;
export type LoadOptions = import("./edgeae.js").LoadOptions;
export type Signature = import("./edgeae.js").Signature;
export type Manifest = import("./manifest.js").Manifest;
export type Role = import("./manifest.js").Role;
export type Checked = import("./rows.js").Checked;
export type RowSpec = import("./rows.js").RowSpec;
export type Graph = {
    where: string;
    Tensor: LoadOptions["ort"]["Tensor"];
    session: Session;
    /**
     * The fixed batch size, if it has one.
     */
    batch: number | null;
    /**
     * What its rows must be.
     */
    spec: RowSpec;
    target: "z" | "x_hat" | "score";
    /**
     * The shape of one result.
     */
    sides: number[];
};
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
export declare const TENSORS: {
    readonly encoder: readonly ["x", "z"];
    readonly decoder: readonly ["z", "x_hat"];
    readonly scorer: readonly ["x", "score"];
};
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
export declare function makeGraph(bytes: Bytes, role: Role, where: string, signature: Signature, manifest: Manifest | null, specs: {
    x: RowSpec;
    z: RowSpec;
}, { ort, sessionOptions }: LoadOptions): Promise<Graph>;
/**
 * Run all rows through a graph, a chunk at a time.
 *
 * @param {Graph} graph
 * @param {Checked} rows
 * @returns {Promise<Float32Array>}
 */
export declare function through(graph: Graph, { data, n }: Checked): Promise<Float32Array>;
