"use strict";
// Three orthogonal sections of a volume that meet in one point.

const AXES = ["z", "y", "x"]; // as the volume is stored
const VIEWS = { xy: ["z", "y", "x"], yz: ["x", "y", "z"], xz: ["y", "z", "x"] }; // what is fixed, rows, columns
const COLOURS = { x: "var(--x)", y: "var(--y)", z: "var(--z)" };

/** Show the volume; gives { point, move }, of which `move` takes { x, y, z } in voxels of the file. */
async function showVolume(data, changed) {
  const stacks = { density: await decode(data.density) };
  if (data.uncertainty) stacks.uncertainty = await decode(data.uncertainty);
  const { n, rows, cols } = stacks.density, size = { z: n, y: rows, x: cols }, stride = { z: rows * cols, y: cols, x: 1 };
  const state = { size, bin: data.bin, shown: stacks.density, table: null, point: {}, views: {}, sliders: {} };
  for (const axis of AXES) state.point[axis] = Math.floor(size[axis] / 2);
  for (const figureOf of document.querySelectorAll("#volume figure")) prepareView(state, figureOf, stride, data);
  const cut = (name) => drawView(state, name, stride);
  state.redraw = () => Object.keys(VIEWS).forEach(cut);
  state.move = (to) => {
    for (const axis of AXES) if (Number.isFinite(to[axis])) state.point[axis] = Math.min(size[axis] - 1, Math.max(0, Math.round(to[axis])));
    state.redraw();
    for (const axis of AXES) tellAxis(state, axis, data);
    changed(inFile(state));
  };
  makeSliders(state);
  layOut(state);
  const pane = document.querySelector("#volume .contrast");
  const choose = (name) => {
    state.shown = stacks[name];
    const window = name === "density" ? data.window : data.uncertainty_window;
    contrast(pane, name === "density" ? "Density" : "Uncertainty", state.shown, window, (black, white) => { state.table = greys(state.shown, black, white); state.redraw(); });
  };
  if (data.uncertainty) makeSwitch(choose);
  choose("density");
  state.move({});
  return { point: () => inFile(state), move: (to) => state.move(Object.fromEntries(Object.entries(to).map(([a, v]) => [a, Math.floor(v / state.bin)]))) };
}

const inFile = (state) => Object.fromEntries(AXES.map((axis) => [axis, state.point[axis] * state.bin]));

function prepareView(state, host, stride, data) {
  const name = host.dataset.view, [fixed, row, col] = VIEWS[name], frame = host.querySelector(".frame");
  const screen = screenOf(frame, state.size[col], state.size[row], `${name} section`);
  const hair = { [row]: tag("div", "hair across", undefined, frame), [col]: tag("div", "hair down", undefined, frame) };
  for (const axis of [row, col]) hair[axis].style.background = COLOURS[axis];
  if (name === "xy") scaleBar(frame, state.size.x, data.voxel_nm && data.voxel_nm * data.bin);
  state.views[name] = { host, frame, screen, hair, caption: host.querySelector("figcaption") };
  const follow = (event) => {
    const box = frame.getBoundingClientRect();
    state.move({ [col]: (event.clientX - box.left) / box.width * state.size[col] - 0.5, [row]: (event.clientY - box.top) / box.height * state.size[row] - 0.5 });
  };
  frame.addEventListener("pointerdown", (event) => { frame.setPointerCapture(event.pointerId); follow(event); });
  frame.addEventListener("pointermove", (event) => { if (event.buttons & 1) follow(event); });
  frame.addEventListener("wheel", (event) => { event.preventDefault(); state.move({ [fixed]: state.point[fixed] + Math.sign(event.deltaY) }); }, { passive: false });
}

function drawView(state, name, stride) {
  const [fixed, row, col] = VIEWS[name], { screen, hair, caption } = state.views[name], { bytes } = state.shown;
  if (!state.table) return;
  const width = state.size[col], start = state.point[fixed] * stride[fixed], [down, along] = [stride[row], stride[col]];
  screen.show((i) => bytes[start + Math.floor(i / width) * down + (i % width) * along], state.table);
  hair[row].style.top = `${(state.point[row] + 0.5) / state.size[row] * 100}%`;
  hair[col].style.left = `${(state.point[col] + 0.5) / state.size[col] * 100}%`;
  caption.innerHTML = `<b>${name}</b><span>${fixed} = ${state.point[fixed] * state.bin}</span>`;
}

function makeSliders(state) {
  const host = document.querySelector("#volume .sliders");
  for (const axis of AXES) {
    const row = tag("label", "slider", undefined, host), input = document.createElement("input");
    tag("b", "", axis, row);
    Object.assign(input, { type: "range", min: 0, max: state.size[axis] - 1, step: 1, id: `slider-${axis}` });
    input.style.setProperty("--thumb", COLOURS[axis]);
    row.append(input);
    state.sliders[axis] = { input, told: tag("output", "", "", row) };
    input.addEventListener("input", () => state.move({ [axis]: Number(input.value) }));
  }
}

function tellAxis(state, axis, data) {
  const { input, told } = state.sliders[axis], place = state.point[axis], centre = (data.shape[AXES.indexOf(axis)] - 1) / 2;
  input.value = place;
  const away = data.voxel_nm ? `, ${figure((place * state.bin - centre) * data.voxel_nm)} nm from the centre` : "";
  told.textContent = `voxel ${place * state.bin}${away}`;
}

/** Give the views one scale, as large as there is room for. */
function layOut(state) {
  const host = document.querySelector("#volume .views"), { x, y, z } = state.size, gap = 16;
  const fit = () => {
    const room = host.parentElement.clientWidth > 700 ? host.clientWidth : host.parentElement.clientWidth;
    const scale = Math.min((room - gap - 1) / (x + z), 700 / (y + z), 640 / x);
    host.style.gridTemplateColumns = `${Math.round(x * scale)}px ${Math.max(56, Math.round(z * scale))}px`;
    for (const [name, view] of Object.entries(state.views)) {
      const [, row, col] = VIEWS[name];
      view.frame.style.width = `${Math.round(state.size[col] * scale)}px`;
      view.frame.style.height = `${Math.round(state.size[row] * scale)}px`;
    }
  };
  new ResizeObserver(fit).observe(host.parentElement);
  fit();
}

function makeSwitch(choose) {
  const host = document.querySelector("#volume .switch");
  host.hidden = false;
  host.addEventListener("change", (event) => choose(event.target.value));
}
