export type Bytes = import("./archive.js").Bytes;
export type FileEntry = import("./manifest.js").FileEntry;
export type Content = ArrayBuffer | Uint8Array | Blob;
export type Source = string | URL | Content | ReadonlyMap<string, Content> | Readonly<Record<string, Content>>;
export type Opened = {
    /**
     * What to call it in messages.
     */
    where: string;
    /**
     * The content, if it is one .onnx file.
     */
    single: Bytes | null;
    /**
     * All files, where that can be known.
     */
    names: ReadonlySet<string> | null;
    /**
     * A file of at most `limit` bytes, or
     * exactly `size`.
     */
    read: (name: string, limit: number, size?: number) => Promise<Bytes>;
};
/**
 * @typedef {import("./archive.js").Bytes} Bytes
 * @typedef {import("./manifest.js").FileEntry} FileEntry
 * @typedef {ArrayBuffer | Uint8Array | Blob} Content
 *
 * What `load` takes:
 * - the address of a bundle's folder, of a .zip of it or of one .onnx file; on Node also their path,
 * - the content of a .zip or of one .onnx file,
 * - the files of a bundle by name: `{"manifest.json": ..., "scorer.onnx": ...}`, or a Map of them.
 * @typedef {string | URL | Content | ReadonlyMap<string, Content> | Readonly<Record<string, Content>>} Source
 *
 * @typedef {object} Opened
 * @property {string} where What to call it in messages.
 * @property {Bytes | null} single The content, if it is one .onnx file.
 * @property {ReadonlySet<string> | null} names All files, where that can be known.
 * @property {(name: string, limit: number, size?: number) => Promise<Bytes>} read A file of at most `limit` bytes, or
 *   exactly `size`.
 */
/** @type {(source: Source) => Promise<Opened>} */
export declare function openSource(source: Source): Promise<Opened>;
/**
 * Refuse bytes that are not the ones that the manifest lists.
 *
 * @type {(bytes: Bytes, file: FileEntry, where: string) => Promise<void>}
 */
export declare function checkDigest(bytes: import("./archive.js").Bytes, file: import("./manifest.js").FileEntry, where: string): Promise<void>;
