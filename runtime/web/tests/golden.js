// The golden rows of a bundle, one by one and all at once, against what they must give. Runs on Node and in browsers.

/**
 * @param {typeof import("../src/edgeae.js").load} load
 * @param {import("../src/edgeae.js").LoadOptions["ort"]} ort
 * @param {import("../src/source.js").Source} source
 * @param {import("../src/manifest.js").Precision} precision
 * @returns {Promise<Record<string, number>>} For z, x_hat and score the largest difference, as a share of the tolerance.
 */
export async function goldenDifferences(load, ort, source, precision) {
  const model = await load(source, { ort, precision });
  const { x, z, x_hat: reconstructed, score } = await model.golden();
  const tolerance = /** @type {import("../src/manifest.js").PrecisionEntry} */ (model.manifest?.precisions[precision])
    .tolerance;
  /** @type {(found: ArrayLike<number>, wanted: ArrayLike<number>, name: "z" | "x_hat" | "score") => number} */
  const worst = (found, wanted, name) => {
    if (found.length !== wanted.length) return Infinity;
    const { rtol, atol } = tolerance[name];
    const shares = Array.from(
      wanted,
      (value, index) => Math.abs(found[index] - value) / (atol + rtol * Math.abs(value)),
    );
    return shares.some(Number.isNaN) ? Infinity : Math.max(...shares);
  };
  /** @type {Record<string, number>} */
  const shares = {
    z: worst((await model.encode(x)).data, z.data, "z"),
    x_hat: worst((await model.decode(z)).data, reconstructed.data, "x_hat"),
    score: worst(await model.score(x), score.data, "score"),
  };
  const size = x.data.length / x.dims[0];
  const rows = Array.from({ length: x.dims[0] }, (_, row) => x.data.subarray(row * size, (row + 1) * size));
  const single = await Promise.all(rows.map((row) => model.score(row)));
  shares.score = Math.max(
    shares.score,
    worst(
      single.map(([value]) => value),
      score.data,
      "score",
    ),
  );
  await model.close();
  return shares;
}
