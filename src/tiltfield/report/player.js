"use strict";
// The tilt series: observed, rendered, residual, one tilt at a time or playing.

const PERIOD = 110; // milliseconds a tilt
const ICONS = { play: "M4 2l11 7-11 7z", pause: "M4 2h4v14H4zM11 2h4v14h-4z" };

/** Show the images; gives { show, at, count }, of which `show` takes an index in order of angle. */
async function showTilts(data, errors, unit, changed) {
  const host = document.querySelector("#tilts"), views = {};
  for (const figureOf of host.querySelectorAll("figure")) {
    const name = figureOf.dataset.image, stack = await decode(data[name]), frame = figureOf.querySelector(".frame");
    frame.style.aspectRatio = `${stack.cols} / ${stack.rows}`;
    views[name] = { stack, table: null, screen: screenOf(frame, stack.cols, stack.rows, `${name} image`) };
    if (name === "observed") scaleBar(frame, stack.cols, data.pixel_nm && data.pixel_nm * data.bin);
  }
  const count = views.observed.stack.n, slider = host.querySelector(".tilt"), told = host.querySelector("output");
  const state = { at: nearestZero(data.angle), timer: 0 };
  const draw = () => {
    for (const { stack, table, screen } of Object.values(views)) {
      const start = state.at * stack.rows * stack.cols;
      if (table) screen.show((i) => stack.bytes[start + i], table);
    }
  };
  const show = (index) => {
    state.at = (index + count) % count;
    slider.value = state.at;
    told.innerHTML = describe(data, errors, unit, state.at);
    draw();
    changed(state.at);
  };
  slider.max = count - 1;
  slider.addEventListener("input", () => show(Number(slider.value)));
  makePlay(host.querySelector(".play"), state, () => show(state.at + 1));
  makeContrast(host, data, views, draw);
  show(state.at);
  return { show, at: () => state.at, count };
}

const nearestZero = (angles) => angles.reduce((best, angle, i) => Math.abs(angle) < Math.abs(angles[best]) ? i : best, 0);

function describe(data, errors, unit, index) {
  const error = errors.heldout_chi2?.[index] ?? errors.chi2?.[index];
  const words = error === undefined || error === null ? "" : ` · error ${figure(error)} × ${unit}`;
  return `<b>tilt ${data.number[index]}</b> · ${figure(data.angle[index], 4)}°${words}`;
}

function makePlay(button, state, next) {
  const draw = () => { button.innerHTML = `<svg width="18" height="18"><path d="${ICONS[state.timer ? "pause" : "play"]}"/></svg>`; };
  button.addEventListener("click", () => {
    if (state.timer) clearInterval(state.timer);
    state.timer = state.timer ? 0 : setInterval(next, PERIOD);
    draw();
  });
  draw();
}

function makeContrast(host, data, views, draw) {
  const [pane, reach] = host.querySelectorAll(".settings .contrast");
  contrast(pane, "Images", views.observed.stack, data.window, (black, white) => {
    const ends = [black, white].map((byte) => valueOf(views.observed.stack, byte));
    for (const name of ["observed", "rendered"]) {
      if (views[name]) views[name].table = greys(views[name].stack, ...ends.map((v) => byteOf(views[name].stack, v)));
    }
    draw();
  });
  if (views.residual) makeReach(reach, views.residual, data.reach, draw);
}

/** One handle: how large a residual has the strongest colour. */
function makeReach(host, view, start, draw) {
  const line = tag("div", "title", undefined, host);
  tag("b", "", "Residual", line);
  drawHistogram(host, histogram(view.stack.bytes));
  const ramp = tag("div", "ramp", undefined, host), input = tag("input", "reach-handle", undefined, host), ends = tag("div", "ends", undefined, host);
  const [low, high] = [tag("span", "", "", ends), tag("span", "", "", ends)];
  Object.assign(input, { type: "range", min: 2, max: 100, step: 1, value: 100 * start / view.stack.high });
  input.setAttribute("aria-label", "Residual: strongest colour");
  const update = () => {
    const reach = view.stack.high * Number(input.value) / 100, half = Number(input.value) / 2;
    const stops = DIVERGING.map((c, i) => `rgb(${c}) ${50 - half + half * i / 3}%`);
    ramp.style.background = `linear-gradient(90deg, ${stops})`;
    [low.textContent, high.textContent] = [`blue ${figure(-reach, 2)} σ`, `red ${figure(reach, 2)} σ`];
    view.table = diverging(view.stack, reach);
    draw();
  };
  input.addEventListener("input", update);
  update();
}
