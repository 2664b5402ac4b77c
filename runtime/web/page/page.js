// The page that `edgeae export --target web` writes: one row, drawn or typed, and what the model makes of it, at once.

import { InputError, load } from "../src/edgeae.js";
import { normalisationOf, sizeOf } from "../src/manifest.js";
import { parseTable } from "./table.js";
import { Picture } from "./picture.js";

/**
 * @typedef {import("../src/edgeae.js").Autoencoder} Autoencoder
 * @typedef {import("../src/edgeae.js").Explanation} Explanation
 * @typedef {import("../src/manifest.js").Manifest} Manifest
 * @typedef {import("../src/manifest.js").Precision} Precision
 * @typedef {import("../src/source.js").Content} Content
 */

const MOST_FIELDS = 48;
const MOST_CHANNELS = 6;
const MOST_LISTED = 500;
const MEASURE_MS = 6;

/** @template {Element} T @param {string} id @param {new () => T} type @returns {T} */
function find(id, type) {
  const found = document.getElementById(id);
  if (found instanceof type) return found;
  throw new Error(`no ${type.name} with the id ${id}`);
}

/** @param {string} tag @param {Record<string, string>} [attributes] @param {...(Node | string)} children */
function element(tag, attributes = {}, ...children) {
  const made =
    tag === "svg" || tag === "polyline"
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Numbers for people: three or four digits that matter. @param {number} value @param {number} [digits] */
function number(value, digits = 4) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (value === 0 || (size >= 1e-3 && size < 1e5)) return String(Number(value.toPrecision(digits)));
  return value.toExponential(digits - 2);
}

/** @param {string} id @returns {Promise<Uint8Array<ArrayBuffer>>} */
async function inlined(id) {
  const text = /** @type {string} */ (find(id, HTMLScriptElement).textContent);
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** @returns {Promise<typeof import("onnxruntime-web/wasm")>} */
async function loadRuntime() {
  const inside = document.getElementById("runtime") !== null;
  const address = inside
    ? URL.createObjectURL(new Blob([await inlined("runtime")], { type: "text/javascript" }))
    : new URL("onnxruntime-web/ort.wasm.bundle.min.mjs", document.baseURI).href;
  try {
    const ort = await import(address);
    ort.env.wasm.numThreads = 1; // more need a server that sends the headers of cross-origin isolation
    if (inside) ort.env.wasm.wasmBinary = (await inlined("wasm")).buffer;
    return ort;
  } catch (problem) {
    if (inside) throw problem;
    throw new Error(
      "ONNX Runtime Web is not there. Either export again with --onnxruntime-web FOLDER, which puts it into the page, " +
        "or put ort.wasm.bundle.min.mjs and ort-wasm-simd-threaded.wasm into the folder onnxruntime-web beside the page " +
        "and open the page from a web server (python -m http.server), as browsers load no modules from files.\n" +
        "The folder comes from: npm pack onnxruntime-web && tar -xzf onnxruntime-web-*.tgz (package/dist).",
    );
  }
}

/** One row and the model; everything on the page follows from it. */
class Page {
  /** @param {typeof import("onnxruntime-web/wasm")} ort @param {Map<string, Content>} files @param {Autoencoder} model */
  constructor(ort, files, model) {
    this.ort = ort;
    this.files = files;
    this.model = model;
    this.manifest = /** @type {Manifest} */ (model.manifest);
    this.input = this.manifest.input;
    this.size = sizeOf(this.input.shape);
    this.low = this.input.dtype === "uint8" ? 0 : (this.input.minimum ?? 0);
    this.high = this.input.dtype === "uint8" ? 255 : (this.input.maximum ?? 1);
    /** @type {Float32Array} */
    this.row = new Float32Array(this.size).fill(this.low);
    /** @type {Float32Array[]} */
    this.pasted = [];
    /** @type {number[]} */
    this.times = [];
    this.busy = false;
    this.dirty = false;
    /** @type {Picture | null} */
    this.picture = null;
    /** @type {HTMLInputElement[]} */
    this.inputs = [];
    /** @type {HTMLElement[]} */
    this.outputs = [];
    this.image = ["HW", "CHW", "HWC"].includes(this.input.layout);
  }

  async start() {
    const { manifest } = this;
    document.documentElement.dataset.layout = this.input.layout;
    find("kind", HTMLElement).textContent =
      `${manifest.variant} autoencoder, rows of ${this.input.shape.join(" × ")}, latents of ${manifest.latent_dim}`;
    find("lead", HTMLElement).textContent =
      "The model packs a row into a few numbers and unpacks it again. What it cannot rebuild is unlike what it was " +
      "trained on. It runs in this page: nothing is sent anywhere.";
    find("score-kind", HTMLElement).textContent = this.model.scoreKind;
    const select = find("precision", HTMLSelectElement);
    for (const name of Object.keys(manifest.precisions)) select.append(element("option", { value: name }, name));
    select.addEventListener("change", () =>
      this.guarded(() => this.usePrecision(/** @type {Precision} */ (select.value))),
    );
    find("precision-label", HTMLElement).hidden = select.length < 2;
    this.image ? this.buildPicture() : this.buildNumbers();
    await this.buildExamples();
    find("work", HTMLElement).hidden = false;
    await this.update();
  }

  buildPicture() {
    find("picture", HTMLElement).hidden = false;
    find("pictures", HTMLElement).hidden = false;
    this.picture = new Picture(this.input, this.low, this.high, (row) => {
      find("invitation", HTMLElement).hidden = true;
      find("golden", HTMLSelectElement).value = "";
      this.row = row;
      this.update();
    });
    const file = find("file", HTMLInputElement);
    file.addEventListener("change", () =>
      this.guarded(async () => {
        if (file.files?.[0]) await this.picture?.open(file.files[0]);
        file.value = "";
      }),
    );
    dropping(find("picture", HTMLElement), (dropped) => this.guarded(() => this.picture?.open(dropped)));
  }

  buildNumbers() {
    const names = this.input.feature_names;
    if (this.input.layout === "vector" && this.size <= MOST_FIELDS) {
      const body = element("tbody");
      for (let index = 0; index < this.size; index++) {
        const name = names?.[index] ?? `value ${index}`;
        const field = /** @type {HTMLInputElement} */ (
          element("input", {
            type: "text",
            name: `value-${index}`,
            inputmode: "decimal",
            "aria-label": name,
            autocomplete: "off",
          })
        );
        field.addEventListener("input", () => {
          this.row = this.row.slice();
          this.row[index] = field.value.trim() === "" ? NaN : Number(field.value);
          field.setAttribute("aria-invalid", String(!Number.isFinite(this.row[index])));
          find("golden", HTMLSelectElement).value = "";
          this.update();
        });
        const output = element("td", { class: "value" });
        this.inputs.push(field);
        this.outputs.push(/** @type {HTMLElement} */ (output));
        body.append(element("tr", {}, element("td", {}, name), element("td", {}, field), output));
      }
      const head = element(
        "tr",
        {},
        element("th", {}, "feature"),
        element("th", { class: "value" }, "value"),
        element("th", { class: "value" }, "reconstruction"),
      );
      const fields = find("fields", HTMLElement);
      fields.append(element("table", {}, element("thead", {}, head), body));
      fields.hidden = false;
    } else find("signal", HTMLElement).hidden = false;
    find("top-block", HTMLElement).hidden = false;
    const form = find("paste-form", HTMLFormElement);
    const area = find("paste", HTMLTextAreaElement);
    form.hidden = false;
    const [steps, channels] = this.input.shape;
    find("paste-label", HTMLElement).textContent =
      this.input.layout === "TC"
        ? `Paste windows: ${steps} lines of ${channels} values each, or a window of ${this.size} values on one line`
        : `Paste rows of ${this.size} values, one a line${names ? "; a first line with names sorts the columns" : ""}`;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.guarded(() => this.usePasted(area.value));
    });
    const file = find("table", HTMLInputElement);
    const open = (/** @type {File} */ chosen) =>
      this.guarded(async () => {
        const text = await chosen.text();
        area.value = text.length > 20_000 ? `${text.slice(0, 20_000)}\n` : text;
        await this.usePasted(text);
      });
    file.addEventListener("change", () => {
      if (file.files?.[0]) open(file.files[0]);
      file.value = "";
    });
    dropping(form, open);
  }

  async buildExamples() {
    const { x } = await this.model.golden();
    const select = find("golden", HTMLSelectElement);
    select.append(element("option", { value: "" }, "choose"));
    for (let index = 0; index < x.dims[0]; index++)
      select.append(element("option", { value: String(index) }, `golden row ${index + 1}`));
    select.addEventListener("change", () => select.value !== "" && this.useExample(Number(select.value)));
    const asked = /^#golden=([0-9]+)$/.exec(location.hash);
    if (asked || !this.image) await this.useExample(asked ? Math.min(Number(asked[1]), x.dims[0]) - 1 : 0);
    else this.picture?.show(this.row);
  }

  /** @param {number} index */
  async useExample(index) {
    const { x } = await this.model.golden();
    find("golden", HTMLSelectElement).value = String(index);
    find("invitation", HTMLElement).hidden = true;
    this.use(Float32Array.from(x.data.subarray(index * this.size, (index + 1) * this.size)));
  }

  /** @param {Float32Array} row */
  use(row) {
    this.row = row;
    this.picture?.show(row);
    this.inputs.forEach((field, index) => {
      field.value = number(row[index], 7);
    });
    this.update();
  }

  /** @param {Precision} precision */
  async usePrecision(precision) {
    const model = await load(this.files, { ort: this.ort, precision, onInvalid: "flag", integrity: integrity() });
    await model.prepare();
    await this.model.close();
    this.model = model;
    this.times = [];
    await this.update();
  }

  /** @param {string} text */
  async usePasted(text) {
    this.pasted = parseTable(text, this.input.shape, this.input.layout, this.input.feature_names ?? null);
    const flat = new Float32Array(this.pasted.length * this.size);
    this.pasted.forEach((row, index) => flat.set(row, index * this.size));
    const scores = await this.model.score({ data: flat, dims: [this.pasted.length, ...this.input.shape] });
    const bad = this.model.isAnomaly(scores);
    const count = bad.filter(Boolean).length;
    const body = /** @type {HTMLTableSectionElement} */ (find("rows", HTMLTableElement).tBodies[0]);
    body.replaceChildren(
      ...Array.from(scores.subarray(0, MOST_LISTED), (score, index) => {
        const button = element("button", { type: "button", "aria-label": `show row ${index}` }, String(index));
        button.addEventListener("click", () => this.choose(index));
        const verdict = element(
          "td",
          { class: bad[index] ? "is-anomaly" : "is-normal" },
          bad[index] ? "anomaly" : "normal",
        );
        return element("tr", {}, element("td", {}, button), element("td", {}, number(score)), verdict);
      }),
    );
    const more = scores.length > MOST_LISTED ? `, the first ${MOST_LISTED} are listed` : "";
    find("rows-title", HTMLElement).textContent =
      `${scores.length} pasted rows, ${count} of them ${count === 1 ? "an anomaly" : "anomalies"}${more}`;
    find("rows-block", HTMLElement).hidden = false;
    this.choose(scores.reduce((best, score, index) => (score > scores[best] || Number.isNaN(score) ? index : best), 0));
  }

  /** @param {number} index */
  choose(index) {
    const body = find("rows", HTMLTableElement).tBodies[0];
    Array.from(body.rows).forEach((row, at) => row.setAttribute("aria-current", String(at === index)));
    find("golden", HTMLSelectElement).value = "";
    this.use(this.pasted[index]);
  }

  /** Say what goes wrong, instead of doing nothing. @param {() => unknown} action */
  async guarded(action) {
    try {
      say("");
      await action();
    } catch (problem) {
      say(/** @type {Error} */ (problem).message);
    }
  }

  /** Show what the model makes of the row; while it computes, later changes are gathered into one. */
  async update() {
    this.dirty = true;
    if (this.busy) return;
    this.busy = true;
    await this.guarded(async () => {
      while (this.dirty) {
        this.dirty = false;
        await this.compute();
      }
    });
    this.busy = false;
  }

  async compute() {
    const { model } = this;
    const x = { data: this.row, dims: [1, ...this.input.shape] };
    const [score] = await model.score(x);
    const reconstruction = (await model.reconstruct(x)).data;
    const explanation = await model.explain(x);
    this.showScore(score);
    if (this.picture) this.picture.showResult(reconstruction, explanation.data);
    else this.showTop(explanation);
    this.outputs.forEach((output, index) => (output.textContent = number(reconstruction[index])));
    if (!find("signal", HTMLElement).hidden) this.showSignal(reconstruction);
    await this.measure(x);
  }

  /** @param {number} score */
  showScore(score) {
    const { threshold } = this.model;
    const [bad] = this.model.isAnomaly([score]);
    find("score", HTMLElement).textContent = number(score);
    find("threshold", HTMLElement).textContent = number(threshold);
    find("score", HTMLElement).dataset.value = String(score);
    const verdict = find("verdict", HTMLElement);
    verdict.className = `verdict ${bad ? "anomaly" : "normal"}`;
    const missing = !this.row.every(Number.isFinite);
    const [word, why] = /** @type {HTMLElement[]} */ ([...verdict.children]);
    const name = bad ? "Anomaly" : "Normal";
    if (word.textContent !== name) word.textContent = name; // or it would be read aloud at every stroke
    why.textContent = missing
      ? "a value is missing or no number"
      : `score ${number(score)}, ${bad ? "above" : "not above"} the threshold ${number(threshold)}`;
    const ratio = threshold > 0 ? Math.max(0, score) / threshold : NaN;
    const place = Number.isFinite(ratio) ? ratio / (1 + ratio) : 0.5 + Math.atan(score - threshold) / Math.PI;
    find("mark", HTMLElement).style.left = `${100 * (Number.isNaN(place) ? 1 : place)}%`;
  }

  /** @param {Explanation} explanation */
  showTop(explanation) {
    const [best] = explanation.top(5);
    const most = Math.max(...best.map(([, value]) => value), Number.MIN_VALUE);
    find("top", HTMLElement).replaceChildren(
      ...best.map(([name, value]) => {
        const bar = /** @type {HTMLElement} */ (element("b"));
        bar.style.width = `${(100 * Math.max(0, value)) / most || 0}%`;
        const label =
          this.input.layout === "TC"
            ? `step ${name.replace(", ", ", channel ")}`
            : this.input.feature_names
              ? name
              : `value ${name}`;
        return element(
          "li",
          {},
          element("span", {}, label),
          element("i", {}, bar),
          element("span", {}, number(value, 3)),
        );
      }),
    );
  }

  /** Draw the row over its reconstruction, in normalised units. @param {Float32Array} reconstruction */
  showSignal(reconstruction) {
    const { shift, scale } = normalisationOf(this.manifest);
    const channels = this.input.layout === "TC" ? this.input.shape[1] : 1;
    const steps = this.size / channels;
    const legend = element(
      "p",
      { class: "legend" },
      element("span", {}, element("i", { class: "key original" }), "row"),
      element("span", {}, element("i", { class: "key reconstruction" }), "reconstruction"),
    );
    const charts = Array.from({ length: Math.min(channels, MOST_CHANNELS) }, (_, channel) => {
      const lines = [this.row, reconstruction].map((values) =>
        Array.from({ length: steps }, (_, step) => {
          const at = step * channels + channel;
          return (values[at] - shift[at]) / scale[at];
        }),
      );
      const all = lines.flat().filter(Number.isFinite);
      const [low, high] = [Math.min(...all, -1), Math.max(...all, 1)];
      const svg = element("svg", {
        class: steps > 150 ? "long" : "",
        viewBox: "0 0 100 100",
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `channel ${channel}: row and reconstruction`,
      });
      lines.forEach((values, index) => {
        const points = values.map(
          (value, step) => `${(100 * step) / Math.max(1, steps - 1)},${100 - (100 * (value - low)) / (high - low)}`,
        );
        svg.append(
          element("polyline", {
            class: index ? "reconstruction" : "original",
            points: points.filter((point) => !point.includes("NaN")).join(" "),
          }),
        );
      });
      const caption =
        channels > 1 ? `channel ${channel} of ${channels}, ${steps} steps, normalised` : `${steps} values, normalised`;
      return element("figure", {}, svg, element("figcaption", {}, caption));
    });
    find("signal", HTMLElement).replaceChildren(legend, ...charts);
  }

  /** Browsers round their clocks, so calls are timed several at a time. @param {import("../src/edgeae.js").Rows} x */
  async measure(x) {
    const start = performance.now();
    let calls = 0;
    let spent = 0;
    do {
      await this.model.score(x);
      calls += 1;
      spent = performance.now() - start;
    } while (spent < MEASURE_MS);
    this.times = [...this.times, spent / calls].slice(-15);
    const middle = [...this.times].sort((one, other) => one - other)[this.times.length >> 1];
    find("latency", HTMLElement).textContent =
      middle < 1 ? `${number(1000 * middle, 2)} µs` : `${number(middle, 3)} ms`;
  }
}

const integrity = () => (globalThis.crypto?.subtle ? "check" : "skip");

/** @param {string} problem */
function say(problem) {
  const place = find("problem", HTMLElement);
  place.textContent = problem;
  place.hidden = problem === "";
}

/** @param {HTMLElement} place @param {(file: File) => unknown} use */
function dropping(place, use) {
  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("over");
  });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    const [file] = event.dataTransfer?.files ?? [];
    if (file) use(file);
  });
}

async function main() {
  const state = document.documentElement.dataset;
  try {
    if (!("DecompressionStream" in globalThis))
      throw new InputError("This browser is too old: it has no DecompressionStream.");
    const ort = await loadRuntime();
    const packed = JSON.parse(new TextDecoder().decode(await inlined("bundle")));
    /** @type {Map<string, Content>} */
    const files = new Map();
    for (const [name, text] of Object.entries(packed))
      files.set(
        name,
        Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)),
      );
    const model = await load(files, { ort, onInvalid: "flag", integrity: integrity() });
    await model.prepare();
    const page = new Page(ort, files, model);
    await page.start();
    const { x } = await model.golden();
    find("footer", HTMLElement).textContent =
      `Encoder, decoder and scorer gave the ${x.dims[0]} golden rows' results in this browser. ` +
      `ONNX Runtime Web ${ort.env.versions.web ?? ""}, WebAssembly, one thread. Made by edgeae from ${model.manifest?.description}.`;
    state.state = "ready";
  } catch (problem) {
    find("lead", HTMLElement).hidden = true;
    say(/** @type {Error} */ (problem).message);
    state.state = "failed";
  }
}

main();
