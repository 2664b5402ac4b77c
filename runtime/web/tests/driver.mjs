// Answers one JSON question a line, for tests that are written elsewhere: `node driver.mjs onnxruntime-node FOLDER`, where
// FOLDER/node_modules holds the packages. {"load": source, "options": {...}, "call": "score", "x": rows} -> {"value": ...};
// what is thrown -> {"error": class, "message": text}. In rows, "nan", "inf" and "-inf" are numbers.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { load } from "../src/edgeae.js";
import { goldenDifferences } from "./golden.js";

const [name, folder] = process.argv.slice(2);
const require = createRequire(`${folder}/x.js`);
const module = name === "onnxruntime-web" ? await import(pathToFileURL(require.resolve(name)).href) : require(name);
const ort = module.default ?? module;
if (name === "onnxruntime-web") ort.env.wasm.numThreads = 1;

const SPECIAL = new Map([
  ["nan", NaN],
  ["inf", Infinity],
  ["-inf", -Infinity],
]);
const ARRAYS = { float32: Float32Array, float64: Float64Array, uint8: Uint8Array, int64: BigInt64Array };

/** @type {(value: any) => any} */
function rows(value) {
  if (Array.isArray(value)) return value.map(rows);
  if (value && typeof value === "object" && "typed" in value) {
    const data = new ARRAYS[/** @type {keyof typeof ARRAYS} */ (value.typed)](rows(value.data));
    return value.dims ? { data, dims: value.dims } : data;
  }
  return SPECIAL.get(value) ?? value;
}

/** @type {(source: any) => Promise<any>} */
async function sourceOf(source) {
  if (typeof source === "string") return source;
  if (source.bytes) return new Uint8Array(await readFile(source.bytes));
  /** @type {Record<string, Uint8Array>} */
  const files = {};
  for (const [file, path] of Object.entries(source.files)) files[file] = await readFile(path);
  return files;
}

/** @type {(question: any) => Promise<unknown>} */
async function answer(question) {
  const source = await sourceOf(question.load);
  if (question.call === "golden") return goldenDifferences(load, ort, source, question.options.precision);
  const model = /** @type {any} */ (await load(source, { ort, ...question.options }));
  try {
    if (!question.call)
      return { shape: model.inputShape, names: model.featureNames, threshold: model.threshold, kind: model.scoreKind };
    const result = await model[question.call](rows(question.x));
    if (question.call === "explain") return { data: Array.from(result.data), top: result.top(3) };
    if (result?.data) return { data: Array.from(result.data, Number), dims: result.dims };
    return Array.from(result, (value) =>
      typeof value === "boolean" || Number.isFinite(value) ? value : String(value),
    );
  } finally {
    await model.close();
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  /** @type {unknown} */
  let reply;
  try {
    reply = { value: await answer(JSON.parse(line)) };
  } catch (problem) {
    const { name, message } = /** @type {Error} */ (problem);
    reply = { error: name, message };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
