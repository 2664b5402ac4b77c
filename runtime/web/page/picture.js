// Rows that are images: drawing one, opening one, showing one.

/**
 * @typedef {import("../src/manifest.js").InputEntry} InputEntry
 */

/** @param {string} id */
const canvasOf = (id) => /** @type {HTMLCanvasElement} */ (document.getElementById(id));
/** @param {string} id */
const inputOf = (id) => /** @type {HTMLInputElement} */ (document.getElementById(id));

/** An image in the user's units, and the canvases that show it. */
export class Picture {
  /**
   * @param {InputEntry} input
   * @param {number} low The value that is black.
   * @param {number} high The value that is white.
   * @param {(row: Float32Array) => void} changed Called with a copy whenever the user changed the image.
   */
  constructor(input, low, high, changed) {
    const { shape, layout } = input;
    const last = layout === "HWC";
    const [height, width] = layout === "CHW" ? shape.slice(1) : shape;
    this.height = height;
    this.width = width;
    this.channels = layout === "HW" ? 1 : last ? shape[2] : shape[0];
    this.last = last;
    this.whole = input.dtype === "uint8";
    this.low = low;
    this.high = high;
    this.changed = changed;
    this.row = new Float32Array(this.height * this.width * this.channels).fill(low);
    /** Where the last dab was, in pixels. @type {[number, number] | null} */
    this.pen = null;
    this.keys = false; // whether the last stroke came from a keyboard, which needs to see where it is
    this.cursor = [Math.floor(this.width / 2), Math.floor(this.height / 2)];
    this.canvas = canvasOf("draw");
    this.brush = inputOf("brush");
    this.ink = inputOf("ink");
    const side = Math.max(this.height, this.width);
    this.brush.max = String(Math.max(2, side / 6));
    this.brush.value = String(Math.max(0.7, side / 22));
    if (this.channels >= 3 && this.ink.parentElement) this.ink.parentElement.hidden = false;
    this.listen();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      canvas.focus({ preventScroll: true });
      this.pen = null;
      this.keys = false;
      this.stroke(...this.placeOf(event));
      const move = (/** @type {PointerEvent} */ next) => this.stroke(...this.placeOf(next));
      const up = () => {
        this.pen = null;
        removeEventListener("pointermove", move);
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", up, { once: true });
      addEventListener("pointercancel", up, { once: true });
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.paint());
    document.getElementById("clear")?.addEventListener("click", () => this.set(() => this.low));
    document
      .getElementById("invert")
      ?.addEventListener("click", () => this.set((value) => this.low + this.high - value));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      const [x, y] = this.cursor;
      this.cursor = [
        Math.min(this.width - 1, Math.max(0, x + step[0])),
        Math.min(this.height - 1, Math.max(0, y + step[1])),
      ];
    }
    const paints = event.key === " " || (step && event.shiftKey);
    if (event.key === "Delete") this.set(() => this.low);
    else if (!step && !paints) return;
    event.preventDefault();
    this.pen = null;
    this.keys = true;
    if (paints) this.stroke(this.cursor[0] + 0.5, this.cursor[1] + 0.5);
    else this.paint();
  }

  /** @param {PointerEvent} event @returns {[number, number]} */
  placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.width,
      ((event.clientY - box.top) / box.height) * this.height,
    ];
  }

  /** Draw from where the pen was to here, with a soft edge. @param {number} x @param {number} y */
  stroke(x, y) {
    const [fromX, fromY] = this.pen ?? [x, y];
    const steps = Math.ceil(2 * Math.hypot(x - fromX, y - fromY)) || 1;
    for (let step = 1; step <= steps; step++) {
      this.dab(fromX + ((x - fromX) * step) / steps, fromY + ((y - fromY) * step) / steps);
    }
    this.pen = [x, y];
    this.finish();
  }

  /** @param {number} x @param {number} y */
  dab(x, y) {
    const radius = Number(this.brush.value);
    const colour =
      this.channels >= 3 ? [1, 3, 5].map((at) => parseInt(this.ink.value.slice(at, at + 2), 16) / 255) : [1];
    for (let row = Math.max(0, Math.floor(y - radius - 1)); row < Math.min(this.height, y + radius + 1); row++) {
      for (
        let column = Math.max(0, Math.floor(x - radius - 1));
        column < Math.min(this.width, x + radius + 1);
        column++
      ) {
        const cover = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(column + 0.5 - x, row + 0.5 - y)));
        for (let channel = 0; channel < this.channels; channel++) {
          const at = this.index(channel, row, column);
          const ink = this.low + (this.high - this.low) * (colour[channel] ?? 1);
          // grey is laid on as the lighter of the two, so that strokes over themselves keep their soft edge
          const mixed = this.row[at] + (ink - this.row[at]) * cover;
          this.row[at] = this.channels < 3 ? Math.max(this.row[at], this.low + (ink - this.low) * cover) : mixed;
        }
      }
    }
  }

  /** @param {number} channel @param {number} y @param {number} x */
  index(channel, y, x) {
    return this.last ? (y * this.width + x) * this.channels + channel : (channel * this.height + y) * this.width + x;
  }

  /** @param {(value: number) => number} change */
  set(change) {
    this.row = this.row.map(change);
    this.finish();
  }

  finish() {
    if (this.whole) this.row = this.row.map(Math.round);
    this.paint();
    this.changed(this.row.slice());
  }

  /** Fill the image with a file's, cut to its shape. @param {File} file */
  async open(file) {
    const bitmap = await createImageBitmap(file).catch(() => {
      throw new Error(`${file.name}: not an image that this browser reads`);
    });
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.width, this.height];
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const scale = Math.max(this.width / bitmap.width, this.height / bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, (this.width - width) / 2, (this.height - height) / 2, width, height);
    const { data } = context.getImageData(0, 0, this.width, this.height);
    for (let pixel = 0; pixel < this.width * this.height; pixel++) {
      const [red, green, blue] = data.subarray(4 * pixel, 4 * pixel + 3);
      const grey = 0.299 * red + 0.587 * green + 0.114 * blue; // ITU-R BT.601, as Pillow's "L"
      for (let channel = 0; channel < this.channels; channel++) {
        const part = this.channels >= 3 ? ([red, green, blue][channel] ?? 255) : grey;
        const at = this.index(channel, Math.floor(pixel / this.width), pixel % this.width);
        this.row[at] = this.low + ((this.high - this.low) * part) / 255;
      }
    }
    this.finish();
  }

  /** Take a row from elsewhere. @param {Float32Array} row */
  show(row) {
    this.row = row.slice();
    this.paint();
  }

  paint() {
    this.draw(
      this.canvas,
      (channel, y, x) => (this.row[this.index(channel, y, x)] - this.low) / (this.high - this.low || 1),
    );
    if (!this.keys || document.activeElement !== this.canvas) return;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.fillStyle = "#ff8758";
    context.fillRect(this.cursor[0], this.cursor[1], 1, 1);
  }

  /** @param {Float32Array} reconstruction @param {Float32Array} contributions */
  showResult(reconstruction, contributions) {
    this.draw(
      canvasOf("reconstruction"),
      (channel, y, x) => (reconstruction[this.index(channel, y, x)] - this.low) / (this.high - this.low || 1),
    );
    const pixels = new Float32Array(this.width * this.height);
    for (let y = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++) {
        for (let channel = 0; channel < this.channels; channel++)
          pixels[y * this.width + x] += contributions[this.index(channel, y, x)];
      }
    }
    const most = pixels.reduce((one, other) => Math.max(one, other), Number.MIN_VALUE);
    const heat = [
      [0.07, 0.09, 0.11],
      [0.76, 0.27, 0.05],
      [1, 0.93, 0.75],
    ];
    this.draw(
      canvasOf("error"),
      (channel, y, x) => {
        const place = 2 * Math.sqrt(Math.max(0, pixels[y * this.width + x]) / most);
        const below = Math.min(1, Math.floor(place));
        return heat[below][channel] + (heat[below + 1][channel] - heat[below][channel]) * (place - below);
      },
      3,
    );
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {(channel: number, y: number, x: number) => number} value 0 for black to 1 for white.
   * @param {number} [channels]
   */
  draw(canvas, value, channels = this.channels) {
    if (canvas.width !== this.width || canvas.height !== this.height)
      [canvas.width, canvas.height] = [this.width, this.height];
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
    const image = context.createImageData(this.width, this.height);
    for (let y = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++) {
        for (let part = 0; part < 3; part++) {
          image.data[4 * (y * this.width + x) + part] = 255 * value(channels >= 3 ? part : 0, y, x);
        }
        image.data[4 * (y * this.width + x) + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }
}
