"use strict";
// Stacks of images kept as pictures: decoded to bytes, shown on canvases through a table of grey levels or colours.

/** Decode an atlas of JPEG pictures to its images, one byte a pixel, in order. */
async function decode(atlas) {
  const { n, rows, cols, cell, across, down } = atlas, bytes = new Uint8Array(n * rows * cols);
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d", { willReadFrequently: true });
  for (let page = 0; page < atlas.pages.length; page++) {
    const picture = new Image();
    picture.src = "data:image/jpeg;base64," + atlas.pages[page];
    await picture.decode();
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    context.drawImage(picture, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const first = page * across * down, last = Math.min(n, first + across * down);
    for (let i = first; i < last; i++) {
      const top = Math.floor((i - first) / across) * cell[0], left = ((i - first) % across) * cell[1];
      for (let row = 0; row < rows; row++) {
        let from = 4 * ((top + row) * canvas.width + left), to = (i * rows + row) * cols;
        for (let col = 0; col < cols; col++, from += 4) bytes[to++] = pixels[from];
      }
    }
    atlas.pages[page] = ""; // the text is not needed any more
  }
  return { ...atlas, bytes };
}

/** The value that a byte stands for; `byte` may be a fraction. */
function valueOf(stack, byte) {
  const share = byte / 255;
  return stack.low + (stack.high - stack.low) * (stack.root ? share * share : share);
}

/** The byte, with fractions, that stands for a value. */
function byteOf(stack, value) {
  const share = Math.min(1, Math.max(0, (value - stack.low) / (stack.high - stack.low)));
  return 255 * (stack.root ? Math.sqrt(share) : share);
}

const opaque = (red, green, blue) => (255 << 24 | blue << 16 | green << 8 | red) >>> 0;

/** Grey levels, linear in the value, from black to white. */
function greys(stack, black, white) {
  const [low, high] = [valueOf(stack, black), valueOf(stack, white)];
  return Uint32Array.from({ length: 256 }, (_, byte) => {
    const grey = Math.round(255 * Math.min(1, Math.max(0, (valueOf(stack, byte) - low) / Math.max(high - low, 1e-30))));
    return opaque(grey, grey, grey);
  });
}

const DIVERGING = [[20, 60, 120], [67, 133, 190], [160, 200, 225], [247, 247, 247], [244, 177, 138], [202, 84, 66], [115, 14, 36]];

/** Colours from blue through white to red for values from -reach to reach. */
function diverging(stack, reach) {
  return Uint32Array.from({ length: 256 }, (_, byte) => {
    const place = Math.min(5.9999, Math.max(0, (valueOf(stack, byte) / reach + 1) * 3)), k = Math.floor(place);
    return opaque(...DIVERGING[k].map((c, i) => Math.round(c + (place - k) * (DIVERGING[k + 1][i] - c))));
  });
}

/** A canvas that shows bytes through a table. */
function screenOf(frame, cols, rows, label) {
  const canvas = tag("canvas", "", undefined, frame);
  [canvas.width, canvas.height] = [cols, rows];
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  const context = canvas.getContext("2d"), image = context.createImageData(cols, rows), out = new Uint32Array(image.data.buffer);
  return { canvas, show: (pick, table) => { for (let i = 0; i < out.length; i++) out[i] = table[pick(i)]; context.putImageData(image, 0, 0); } };
}

/** Put a scale bar of a round length into a frame that is `cols` pixels of `size` wide. */
function scaleBar(frame, cols, size) {
  const length = round125(cols * (size ?? 1) / 3.5), bar = tag("div", "bar", `${figure(length)} ${size ? "nm" : "px"}`, frame);
  const fit = () => bar.style.setProperty("--length", `${Math.round(length / (size ?? 1) / cols * frame.clientWidth)}px`);
  new ResizeObserver(fit).observe(frame);
  fit();
}

function round125(limit) {
  const power = 10 ** Math.floor(Math.log10(limit));
  return Math.max(...[1, 2, 5].map((m) => m * power).filter((v) => v <= limit * (1 + 1e-9)));
}

function histogram(bytes) {
  const counts = new Float64Array(256), step = Math.max(1, Math.floor(bytes.length / 2e6));
  for (let i = 0; i < bytes.length; i += step) counts[bytes[i]]++;
  return counts;
}

/** A histogram with two handles, black and white; `change` gets their bytes. */
function contrast(host, title, stack, window, change) {
  host.replaceChildren();
  const line = tag("div", "title", undefined, host), start = window.map((v) => byteOf(stack, v));
  tag("b", "", title, line);
  const reset = tag("button", "link", "Reset", line);
  reset.type = "button";
  drawHistogram(host, histogram(stack.bytes));
  const ramp = tag("div", "ramp", undefined, host), pair = tag("div", "pair", undefined, host);
  const ends = tag("div", "ends", undefined, host), told = [tag("span", "", "", ends), tag("span", "", "", ends)];
  const handles = ["black", "white"].map((name, i) => handle(pair, name, `${title}: ${name}`, start[i], 0.5));
  const update = () => {
    const [black, white] = handles.map((h) => Number(h.value));
    ramp.style.background = `linear-gradient(90deg, #000 ${black / 2.55}%, #fff ${white / 2.55}%)`;
    [black, white].forEach((b, i) => { told[i].textContent = `${i ? "white" : "black"} ${figure(valueOf(stack, b))}`; });
    change(black, white);
  };
  handles.forEach((h, i) => h.addEventListener("input", () => {
    const other = Number(handles[1 - i].value);
    h.value = i ? Math.max(Number(h.value), other + 1) : Math.min(Number(h.value), other - 1);
    update();
  }));
  reset.addEventListener("click", () => { handles.forEach((h, i) => { h.value = start[i]; }); update(); });
  update();
}

function handle(parent, className, label, value, step) {
  const input = tag("input", className, undefined, parent);
  Object.assign(input, { type: "range", min: 0, max: 255, step, value });
  input.setAttribute("aria-label", label);
  return input;
}

function drawHistogram(host, counts) {
  const top = Math.log1p(Math.max(...counts)), svg = element("svg", { viewBox: "0 0 256 54", preserveAspectRatio: "none" }, host);
  const path = Array.from(counts, (c, i) => `L${i} ${(54 - 50 * Math.log1p(c) / top).toFixed(1)}`).join("");
  element("path", { d: `M0 54${path}L255 54Z`, fill: "#9aa5af" }, svg);
}
