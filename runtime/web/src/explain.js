// Which values of a row make its score: the reconstruction error, value by value.

import { InputError } from "./errors.js";
import { normalisationOf, sizeOf } from "./manifest.js";
import { placeOf } from "./rows.js";

// The decoder's output went through float32, where a sigmoid cannot come nearer to 0 or 1 than this.
const NEAREST = 2 ** -24;

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
export class Explanation {
  /**
   * @param {Float32Array} data [n, *inputShape], in normalised space.
   * @param {number[]} dims
   * @param {readonly string[] | null} names One per value of a row, where there are names; of a window, one per channel.
   */
  constructor(data, dims, names) {
    /** @readonly */ this.data = data;
    /** @readonly */ this.dims = dims;
    /** @readonly */ this.names = names;
  }

  /**
   * For each row the k largest contributions with their names, largest first; values without names are called by their
   * place: "3", or "7, 12" in an image; those of a window by channel and step, counted from 0: "pressure @ 12".
   *
   * @param {number} [k]
   * @returns {[string, number][][]}
   */
  top(k = 5) {
    if (!Number.isInteger(k) || k < 1) throw new InputError(`top: expected a whole number from 1, got ${k}`);
    const [n, ...shape] = this.dims;
    const size = sizeOf(shape);
    const { names } = this;
    /** @type {(index: number) => string} */
    const nameOf = (index) => {
      if (!names) return placeOf(index, shape).join(", ");
      if (names.length === size) return names[index];
      return `${names[index % names.length]} @ ${Math.floor(index / names.length)}`;
    };
    return Array.from({ length: n }, (_, row) => {
      const values = this.data.subarray(row * size, (row + 1) * size);
      const order = Array.from(values.keys()).sort((one, other) => values[other] - values[one]);
      return order.slice(0, k).map((index) => [nameOf(index), values[index]]);
    });
  }
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
export function contributions(manifest, statistics, x, reconstructed) {
  const { kind, decoder_variance: variance } = manifest.score;
  const { shift, scale } = normalisationOf(manifest);
  const size = shift.length;
  const { spread, centre, whitening, prototypes } = statistics;
  if (centre && whitening) {
    const errors = Float64Array.from(
      x,
      (value, index) => (value - reconstructed[index]) / scale[index % size] - centre[index % size],
    );
    const away = prototypes && spread && distances(Float64Array.from(x, (value, index) => (value - shift[index % size]) / scale[index % size]), prototypes, spread);
    return Float32Array.from(errors, (_, index) => {
      const at = index % size;
      let whitened = 0;
      for (let other = 0; other < size; other++) whitened += errors[index - at + other] * whitening[other * size + at];
      return whitened ** 2 + (away ? away[index] : 0);
    });
  }
  const entropy = kind === "bce" || (kind === "elbo" && !variance);
  return Float32Array.from(x, (value, index) => {
    const at = index % size;
    const other = reconstructed[index];
    if (entropy) {
      const u = (value - shift[at]) / scale[at];
      const v = Math.min(1 - NEAREST, Math.max(NEAREST, (other - shift[at]) / scale[at]));
      const inside = Math.min(1, Math.max(0, u));
      return (u - inside) ** 2 - (inside * Math.log(v) + (1 - inside) * Math.log1p(-v));
    }
    const difference = (value - other) / scale[at] / (spread ? spread[at] : 1);
    if (kind === "mae") return Math.abs(difference);
    return kind === "elbo" && variance ? difference ** 2 / (2 * variance) : difference ** 2;
  });
}

/**
 * ((value - that of the row's nearest prototype) / spread)²
 *
 * @param {Float64Array} rows [n, size], normalised.
 * @param {Float32Array} prototypes [k, size]
 * @param {Float32Array} spread [size]
 * @returns {Float64Array}
 */
function distances(rows, prototypes, spread) {
  const size = spread.length;
  const result = new Float64Array(rows.length);
  for (let start = 0; start < rows.length; start += size) {
    let least = Infinity;
    for (let first = 0; first < prototypes.length; first += size) {
      const each = spread.map((unit, at) => ((rows[start + at] - prototypes[first + at]) / unit) ** 2);
      const total = each.reduce((sum, part) => sum + part, 0);
      if (total < least) result.set(each, start);
      least = Math.min(least, total);
    }
  }
  return result;
}
