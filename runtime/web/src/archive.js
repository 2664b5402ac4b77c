// Strict readers of what bundles are packed in: .zip archives (APPNOTE.TXT), and the .npz and .npy files of NumPy
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).

import { BundleError, grouped, repr, startOf } from "./errors.js";

/**
 * @typedef {Uint8Array<ArrayBuffer>} Bytes
 * @typedef {Int8Array | Int16Array | Int32Array | Uint8Array | Uint16Array | Uint32Array | Float32Array
 *   | Float64Array} Values
 * @typedef {{data: Values, dims: number[], type: string}} NpyArray
 */

const MAX_ENTRIES = 128;
const MAX_DIRECTORY = 2 ** 18;
const MAX_RATIO = 100;
const MAX_ARRAY_BYTES = 160 * 2 ** 20;
export const MAX_BUNDLE_BYTES = 4 * 2 ** 30;

const PART = /^[A-Za-z0-9_][A-Za-z0-9_.+-]*$/;
const LITTER = /^(\.DS_Store|\._.*|\.nfs[0-9a-f]+|Thumbs\.db|desktop\.ini|__MACOSX)$/i;

/** Refuse a name that is not a plain relative path. @type {(name: string, where: string) => void} */
export function checkName(name, where) {
  const parts = name.split("/");
  if (name.length > 255 || parts.length > 3 || !parts.every((part) => PART.test(part) && !part.endsWith("."))) {
    const shown = Array.from(name).length > 60 ? `${startOf(name, 57)}...` : name;
    throw new BundleError(`${where}: the file name ${repr(shown)} is not a plain relative path`);
  }
}

/** Whether the system left this file behind. @type {(name: string) => boolean} */
export const isLitter = (name) => name.split("/").some((part) => LITTER.test(part));

/**
 * Unpack a .zip in memory: stored or deflated files whose directory, local headers and bytes agree.
 *
 * @param {Bytes} bytes
 * @param {string} where
 * @param {number} [budget] Bytes that all files may have together.
 * @param {number} [ratio] How many times larger than the archive they may be, the first MiB apart.
 * @returns {Promise<Map<string, Bytes>>}
 */
export async function readZip(bytes, where, budget = MAX_BUNDLE_BYTES, ratio = MAX_RATIO) {
  /** @type {(reason: string) => BundleError} */
  const unreadable = (reason) =>
    new BundleError(`${where}: not a readable .zip file: ${reason}; copy it again, or zip its files again`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** @type {(at: number) => number} */
  const u16 = (at) => view.getUint16(at, true);
  /** @type {(at: number) => number} */
  const u32 = (at) => view.getUint32(at, true);
  const end = bytes.length - 22;
  if (bytes[0] !== 0x50 || bytes[1] !== 0x4b) throw unreadable("it does not start like one");
  if (end < 0 || u32(end) !== 0x06054b50 || u16(end + 20) !== 0) {
    throw unreadable("it is cut off, or has a comment or other data behind its end");
  }
  const [count, size, start] = [u16(end + 10), u32(end + 12), u32(end + 16)];
  if (u16(end + 4) || u16(end + 6) || u16(end + 8) !== count || start + size !== end) {
    throw unreadable("its directory is not where it says (several parts, zip64, or data in front?)");
  }
  if (count > MAX_ENTRIES || size > MAX_DIRECTORY) {
    throw unreadable(`${count} entries in ${size} bytes, allowed are ${MAX_ENTRIES} in ${MAX_DIRECTORY}`);
  }

  const entries = [];
  let at = start;
  for (let index = 0; index < count; index++) {
    if (end - at < 46) throw unreadable("its directory is cut off");
    const length = u16(at + 28);
    const next = at + 46 + length + u16(at + 30) + u16(at + 32);
    if (u32(at) !== 0x02014b50 || next > end || u16(at + 34)) throw unreadable("its directory is damaged");
    const entry = {
      flags: u16(at + 8),
      method: u16(at + 10),
      crc: u32(at + 16),
      packed: u32(at + 20),
      size: u32(at + 24),
      mode: u16(at + 4) >> 8 === 3 ? u32(at + 38) >>> 28 : 0,
      offset: u32(at + 42),
      rawName: bytes.subarray(at + 46, at + 46 + length),
      name: "",
      start: 0,
    };
    entry.name = new TextDecoder().decode(entry.rawName);
    entries.push(entry);
    at = next;
  }
  if (at !== end) throw unreadable("its directory holds more than its entries");

  entries.sort((one, other) => one.offset - other.offset);
  let behind = 0;
  let total = 0;
  const seen = new Set();
  for (const entry of entries) {
    const { offset } = entry;
    const [name, path] = [repr(entry.name), entry.name.replace(/\/$/, "")];
    if (bytes.length - offset < 30) throw unreadable(`${name} reaches beyond the archive`);
    const flags = u16(offset + 6);
    if ((entry.flags | flags) & 0x2041) throw unreadable(`${name} is encrypted`);
    if (![0, 8].includes(entry.method)) throw unreadable(`${name} is packed by a method other than deflate`);
    if (![0, 4, 8].includes(entry.mode)) throw unreadable(`${name} is a link or a device, not a regular file`);
    const length = u16(offset + 26);
    let same = u32(offset) === 0x04034b50 && u16(offset + 8) === entry.method && length === entry.rawName.length;
    same &&= entry.rawName.every((byte, index) => byte === bytes[offset + 30 + index]);
    if (!(flags & 8)) {
      const elsewhere = u32(offset + 18) === 0xffffffff && u32(offset + 22) === 0xffffffff;
      const sizes = u32(offset + 18) === entry.packed && u32(offset + 22) === entry.size;
      same &&= u32(offset + 14) === entry.crc && (sizes || elsewhere);
    }
    if (!same || (entry.method === 0 && entry.packed !== entry.size)) {
      throw unreadable(`${name} is another in its place than in the directory`);
    }
    if (offset < behind) throw unreadable(`${name} shares bytes with another entry`);
    entry.start = offset + 30 + length + u16(offset + 28);
    behind = entry.start + entry.packed;
    if (behind > start) throw unreadable(`${name} reaches beyond the archive`);
    if (isLitter(path)) continue;
    checkName(path, where);
    if (seen.has(entry.name.toLowerCase()))
      throw new BundleError(`${where}: holds ${name} twice; zip the files of one bundle again`);
    seen.add(entry.name.toLowerCase());
    if (entry.name.endsWith("/") && entry.size) throw unreadable(`the folder ${name} has content`);
    total += entry.size;
  }
  const allowed = Math.min(budget, ratio * bytes.length + 2 ** 20);
  if (total > allowed) {
    throw new BundleError(
      `${where}: would unpack to ${grouped(total)} bytes, more than the ${grouped(allowed)} that a file of its size may; ` +
        "it is damaged or made to fill the memory",
    );
  }

  /** @type {Map<string, Bytes>} */
  const files = new Map();
  for (const entry of entries) {
    if (entry.name.endsWith("/") || isLitter(entry.name)) continue;
    const name = repr(entry.name);
    const packed = bytes.slice(entry.start, entry.start + entry.packed);
    const data = entry.method === 0 ? packed : await inflated(packed, entry.size).catch(() => null);
    if (data === null) throw unreadable(`${name} does not unpack to the ${entry.size} bytes that it declares`);
    if (crc32(data) !== entry.crc) throw unreadable(`${name} has another checksum than it declares`);
    files.set(entry.name, data);
  }
  return files;
}

/** What a stream holds, if that is `size` bytes and nothing is behind it. @type {(packed: Bytes, size: number) => Promise<Bytes | null>} */
async function inflated(packed, size) {
  if (typeof process === "object" && process?.versions?.node) {
    // Node's DecompressionStream passes over what stands behind the end.
    const { inflateRawSync } = await import("node:zlib");
    const options = /** @type {import("node:zlib").ZlibOptions} */ ({ maxOutputLength: Math.max(1, size), info: true });
    const { buffer, engine } = /** @type {any} */ (inflateRawSync(packed, options));
    return buffer.length === size && engine.bytesWritten === packed.length ? new Uint8Array(buffer) : null;
  }
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const data = new Uint8Array(size);
  const reader = stream.getReader();
  let filled = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return filled === size ? data : null;
    if (filled + value.length > size) {
      await reader.cancel();
      return null;
    }
    data.set(value, filled);
    filled += value.length;
  }
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** @type {(bytes: Bytes) => number} */
function crc32(bytes) {
  let value = 0xffffffff;
  for (let index = 0; index < bytes.length; index++) value = CRC_TABLE[(value ^ bytes[index]) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

const HEADER =
  /^\{'descr': '[<|]([biuf][1248])', 'fortran_order': (False|True), 'shape': \(((?:[0-9]{1,10}, ?){0,8}(?:[0-9]{1,10})?)\), \} *\n$/;
// What bundles do not hold is named in messages and not looked at: arrays of its width will do.
const TYPES = /** @type {const} */ ({
  b1: ["bool", Uint8Array],
  i1: ["int8", Int8Array],
  i2: ["int16", Int16Array],
  i4: ["int32", Int32Array],
  i8: ["int64", Float64Array],
  u1: ["uint8", Uint8Array],
  u2: ["uint16", Uint16Array],
  u4: ["uint32", Uint32Array],
  u8: ["uint64", Float64Array],
  f2: ["float16", Uint16Array],
  f4: ["float32", Float32Array],
  f8: ["float64", Float64Array],
});

/**
 * Read the arrays of an .npz file.
 *
 * @param {Bytes} bytes
 * @param {string} where
 * @returns {Promise<Map<string, NpyArray>>}
 */
export async function readNpz(bytes, where) {
  /** @type {Map<string, NpyArray>} */
  const arrays = new Map();
  for (const [name, data] of await readZip(bytes, where, MAX_ARRAY_BYTES, Infinity)) {
    if (!name.endsWith(".npy") || name.includes("/")) {
      throw new BundleError(`${where}: holds ${repr(name)}, which is no array; copy or export the bundle again`);
    }
    arrays.set(name.slice(0, -4), readNpy(data, `${where}: ${name}`));
  }
  return arrays;
}

/** @type {(bytes: Bytes, where: string) => NpyArray} */
function readNpy(bytes, where) {
  const magic = String.fromCharCode(...bytes.subarray(0, 8));
  const end = bytes.length < 10 ? 0 : 10 + bytes[8] + 256 * bytes[9];
  const header = end ? HEADER.exec(new TextDecoder("latin1").decode(bytes.subarray(10, end))) : null;
  if (magic !== "\x93NUMPY\x01\x00" || end > bytes.length || !header) {
    throw new BundleError(`${where} is not a .npy file of plain little-endian numbers; export the bundle again`);
  }
  const dims = (header[3].match(/[0-9]+/g) ?? []).map(Number);
  const [name, Values] = TYPES[/** @type {keyof typeof TYPES} */ (header[1])] ?? ["", Uint8Array];
  const count = dims.includes(0) ? 0 : dims.reduce((product, side) => product * side, 1);
  if (!name || count * Values.BYTES_PER_ELEMENT !== bytes.length - end) {
    throw new BundleError(`${where} does not hold the numbers that it declares`);
  }
  const data = new Values(bytes.slice(end).buffer);
  return { data: header[2] === "True" ? rowMajor(data, dims) : data, dims, type: name };
}

/**
 * Values in the order of C from values in the order of Fortran, where the first axis runs fastest.
 *
 * @template {Values} T
 * @param {T} data
 * @param {number[]} dims
 * @returns {T}
 */
function rowMajor(data, dims) {
  const ordered = /** @type {any} */ (data.slice());
  for (let index = 0; index < data.length; index++) {
    let [rest, place, stride] = [index, 0, data.length];
    for (const side of [...dims].reverse()) {
      stride /= side;
      place += (rest % side) * stride;
      rest = Math.floor(rest / side);
    }
    ordered[index] = data[place];
  }
  return ordered;
}
