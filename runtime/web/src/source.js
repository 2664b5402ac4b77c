// Where a bundle's files come from: an address, a folder on the disk (Node), a .zip, files that are in memory already.

import { isLitter, MAX_BUNDLE_BYTES, readZip } from "./archive.js";
import { BundleError, grouped, InputError, IntegrityError } from "./errors.js";

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
export async function openSource(source) {
  if (typeof source === "string" || source instanceof URL) return openAddress(String(source));
  const content = await bytesOf(source);
  if (content) return openContent(content, "name" in source ? String(source.name) : "bundle");
  if (source === null || typeof source !== "object") {
    throw new InputError(
      `load: expected an address, the bytes of a .zip or .onnx file, or files by name, got ${source}`,
    );
  }
  const files = new Map(source instanceof Map ? source : Object.entries(source));
  return openFiles("bundle", new Set(files.keys()), (name) => files.get(name));
}

/** @type {(bytes: Bytes, where: string) => Promise<Opened>} */
async function openContent(bytes, where) {
  if (bytes[0] !== 0x50 || bytes[1] !== 0x4b) return { ...openFiles(where, null, () => undefined), single: bytes };
  const files = await readZip(bytes, where);
  requireManifest(where, new Set(files.keys()));
  return openFiles(where, new Set(files.keys()), (name) => files.get(name));
}

/** @type {(address: string) => Promise<Opened>} */
async function openAddress(address) {
  const where = address.replace(/\/+$/, "");
  const onDisk = isNode() && !/^(https?|data|blob):/.test(address);
  const get = onDisk ? fromDisk : fetched;
  if (/\.(zip|onnx)([?#].*)?$/.test(where) || /^(data|blob):/.test(where))
    return openContent(await get(where, MAX_BUNDLE_BYTES), where);
  const names = onDisk ? await namesIn(where) : null;
  return openFiles(where, names, (name, limit, size) => get(`${where}/${name}`, limit, size));
}

const isNode = () => typeof process === "object" && Boolean(process?.versions?.node);

const MAX_FILES = 128;
const MAX_FOLDERS = 2;

/** @type {(where: string, found: number, limit: number, size?: number) => void} */
function checkSize(where, found, limit, size) {
  if (found > limit) {
    const [bytes, most] = [grouped(found), grouped(limit)];
    throw new BundleError(`${where}: ${bytes} bytes, more than the limit of ${most}; it is no file of a bundle`);
  }
  if (size !== undefined && found !== size) {
    throw new IntegrityError(`${where}: ${found} bytes, the manifest says ${size}; copy or export the bundle again`);
  }
}

/** @type {(address: string) => Promise<Bytes>} */
async function fetched(address) {
  /** @type {Response} */
  let response;
  try {
    response = await fetch(address);
  } catch (problem) {
    throw new BundleError(`${address}: cannot be read: ${/** @type {Error} */ (problem).message}`);
  }
  if (response.status === 404)
    throw new BundleError(`${address}: the file is missing; copy or export the bundle again`);
  if (!response.ok) throw new BundleError(`${address}: cannot be read: HTTP status ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** @type {(path: string, limit: number, size?: number) => Promise<Bytes>} */
async function fromDisk(path, limit, size) {
  const { constants, open } = await import("node:fs/promises");
  const place = path.startsWith("file:") ? new URL(path) : path;
  /** @type {import("node:fs/promises").FileHandle | undefined} */
  let handle;
  try {
    handle = await open(place, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)); // a pipe would wait for its other end
    const status = await handle.stat();
    if (!status.isFile()) throw new BundleError(`${path}: is not a regular file`);
    checkSize(path, status.size, limit, size);
    return new Uint8Array(await handle.readFile());
  } catch (problem) {
    if (problem instanceof BundleError) throw problem;
    const { code, message } = /** @type {{code?: string, message: string}} */ (problem);
    if (code === "ENOENT") throw new BundleError(`${path}: the file is missing; copy or export the bundle again`);
    throw new BundleError(`${path}: cannot be read: ${message}`);
  } finally {
    await handle?.close();
  }
}

/** The names of all files of a bundle's folder, without litter; none a link or a device. @type {(path: string) => Promise<Set<string>>} */
async function namesIn(path) {
  const { lstat, readdir } = await import("node:fs/promises");
  /** @type {(name: string) => string | URL} */
  const place = (name) => (path.startsWith("file:") ? new URL(`${path}/${encodeURI(name)}`) : `${path}/${name}`);
  /** @type {Set<string>} */
  const files = new Set();
  /** @type {(folder: string) => Promise<void>} */
  const walk = async (folder) => {
    const entries = await readdir(place(folder), { withFileTypes: true });
    if (entries.length > 8 * MAX_FILES) {
      throw new BundleError(`${path}: holds far too many files; it is no edgeae bundle`);
    }
    for (const entry of entries) {
      if (isLitter(entry.name)) continue;
      const name = folder + entry.name;
      if (entry.isDirectory() && name.split("/").length <= MAX_FOLDERS) await walk(`${name}/`);
      else if (entry.isFile()) files.add(name);
      else {
        const kind = entry.isSymbolicLink() ? "is a link" : "is not a regular file";
        throw new BundleError(`${path}/${name}: ${kind}; a bundle's files must be regular files inside it`);
      }
      if (files.size > MAX_FILES) {
        throw new BundleError(`${path}: holds more than ${MAX_FILES} files; it is no edgeae bundle`);
      }
    }
  };
  try {
    if (!(await lstat(place("manifest.json")).catch(() => null))) {
      const entries = await readdir(place(""));
      const hint = entries.includes("model.json")
        ? `; it is a run directory: export it first with: edgeae export ${path} -o BUNDLE`
        : "";
      throw new BundleError(`${path}: not a bundle, it has no manifest.json${hint}`);
    }
    await walk("");
  } catch (problem) {
    if (problem instanceof BundleError) throw problem;
    const { code, message } = /** @type {{code?: string, message: string}} */ (problem);
    if (code === "ENOENT")
      throw new BundleError(`${path}: no such bundle; make one with: edgeae export RUN -o ${path}`);
    throw new BundleError(`${path}: ${code === "ENOTDIR" ? "not a bundle, a .zip or an .onnx file" : message}`);
  }
  requireManifest(path, files);
  return files;
}

/** @type {(where: string, files: ReadonlySet<string>) => void} */
function requireManifest(where, files) {
  if (files.has("manifest.json")) return;
  const nested = [...files].some((name) => name.endsWith("/manifest.json"));
  const why = nested ? "zip what is in the folder, not the folder" : "it is no edgeae bundle";
  throw new BundleError(`${where}: holds no manifest.json at its top; ${why}`);
}

/**
 * @param {string} where
 * @param {Set<string> | null} names
 * @param {(name: string, limit: number, size?: number) => Content | undefined | Promise<Content | undefined>} get
 * @returns {Opened}
 */
function openFiles(where, names, get) {
  const own = names && new Set([...names].filter((name) => !isLitter(name)));
  return {
    where,
    single: null,
    names: own,
    read: async (name, limit, size) => {
      const content = await get(name, limit, size);
      if (content === undefined) {
        if (name === "manifest.json") throw new BundleError(`${where}: not a bundle, it has no manifest.json`);
        throw new BundleError(`${where}/${name}: the file is missing; copy or export the bundle again`);
      }
      const bytes = await bytesOf(content);
      if (bytes) {
        checkSize(`${where}/${name}`, bytes.length, limit, size);
        return bytes;
      }
      throw new InputError(`${where}/${name}: expected an ArrayBuffer, a Uint8Array or a Blob`);
    },
  };
}

/** @type {(content: unknown) => Promise<Bytes | null>} */
async function bytesOf(content) {
  if (content instanceof Uint8Array) return /** @type {Bytes} */ (content);
  if (content instanceof ArrayBuffer) return new Uint8Array(content);
  return typeof Blob === "function" && content instanceof Blob ? new Uint8Array(await content.arrayBuffer()) : null;
}

/**
 * Refuse bytes that are not the ones that the manifest lists.
 *
 * @type {(bytes: Bytes, file: FileEntry, where: string) => Promise<void>}
 */
export async function checkDigest(bytes, file, where) {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) {
    throw new IntegrityError(
      `${where}: its SHA-256 cannot be checked, as browsers hash for pages from https or localhost only; ` +
        "serve the page so, or load with integrity: 'skip'",
    );
  }
  const hash = new Uint8Array(await subtle.digest("SHA-256", bytes));
  const digest = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (digest !== file.sha256) {
    throw new IntegrityError(
      `${where}: its SHA-256 is ${digest.slice(0, 12)}..., the manifest says ${file.sha256.slice(0, 12)}...; ` +
        "the file was changed after export: copy or export the bundle again",
    );
  }
}
