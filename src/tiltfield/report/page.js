"use strict";
// The page: which data go into which chart, and the point in the address, as in report.html#z=12&tilt=23.

const DATA = JSON.parse(document.getElementById("data").textContent);
const report = { ready: false }; // what a script may ask of the page

const at = (id) => document.getElementById(id);
const range = (n, first = 0) => Array.from({ length: n }, (_, i) => i + first);

function drawErrors(pick) {
  const { tilts } = DATA, held = tilts.heldout_chi2?.filter((v) => v !== null).length > tilts.heldout_chi2?.length / 2;
  if (!tilts.chi2) return null;
  const error = { kind: "dots", x: tilts.angle_deg, y: held ? tilts.heldout_chi2 : tilts.chi2, colour: BLUE, radius: 3.5, name: held ? "held-out pixels" : "all pixels" };
  const fitted = held && { kind: "line", x: tilts.angle_deg, y: tilts.chi2, colour: GREY, width: 1.3, name: "all pixels" };
  const apart = DATA.evaluation.heldout_per_tilt ?? [];
  const cross = apart.length && { kind: "dots", x: apart.map((t) => t.angle_deg), y: apart.map((t) => t.chi2), colour: ORANGE, radius: 4, name: "whole tilt left out" };
  return chart(at("error-per-tilt"), {
    title: "Error per tilt", height: 200, x: { label: "tilt angle (°)", name: "" }, y: { label: `squared error / ${DATA.unit}`, min: 0 },
    layers: [error, fitted, cross], pick, describe: (i) => `tilt ${tilts.number[i]}, ${figure(tilts.angle_deg[i], 4)}°`,
  });
}

/** The ends of an axis that leave out how a curve began. */
function late(...curves) {
  const kept = curves.flatMap((c) => c.slice(Math.floor(c.length * 0.06))).filter((v) => v !== null && Number.isFinite(v));
  if (!kept.length) return {};
  const [low, high] = [Math.min(...kept), Math.max(...kept)], room = 0.06 * (high - low || 1);
  return { min: low - room, max: high + room };
}

function drawFit() {
  const { fit, weights } = DATA, held = fit.heldout_nll ?? [], pass = range(held.length, 1);
  if (held.length > 1) {
    chart(at("likelihood"), {
      title: "Negative log-likelihood", x: { label: "pass over the slices", name: "pass" }, y: { label: "nats a pixel", ...late(held, fit.nll) },
      layers: [{ kind: "line", x: pass, y: held, colour: BLUE, width: 2, name: "held out" }, { kind: "line", x: pass, y: fit.nll, colour: GREY, width: 1.2, name: "fitted" }],
    });
    chart(at("loss"), {
      title: "Loss", x: { label: "pass over the slices", name: "pass" }, y: { label: "likelihood + total variation", ...late(fit.loss) },
      layers: [{ kind: "line", x: pass, y: fit.loss, colour: INK, width: 1.5 }],
    });
  }
  const tried = weights.tv_weight ?? [];
  if (tried.length > 1) {
    const order = range(tried.length).sort((a, b) => tried[a] - tried[b]), logs = order.map((i) => Math.log10(tried[i]));
    chart(at("weights"), {
      title: "Weight of the total variation", x: { label: "log₁₀ weight", name: "log₁₀ weight" }, y: { label: "held out, nats a pixel" },
      layers: [{ kind: "line", x: logs, y: order.map((i) => weights.heldout_nll[i]), colour: GREY, width: 1.3, tell: false }, { kind: "dots", x: logs, y: order.map((i) => weights.heldout_nll[i]), colour: BLUE }],
      rules: DATA.chosen > 0 ? [{ x: Math.log10(DATA.chosen), text: "chosen" }] : [],
    });
  }
}

function drawNoise() {
  const { noise } = DATA;
  (noise.density ?? []).forEach((d, i) => {
    const step = (d.high - d.low) / d.seen.length, x = range(d.seen.length).map((k) => d.low + (k + 0.5) * step);
    chart(at(`density-${i}`), {
      title: `Noise at intensity ${figure(d.intensity)}, ${d.name}`, x: { label: "observed less clean, grey values", name: "noise" }, y: { label: "density", min: 0 },
      layers: [{ kind: "area", x, y: d.seen, colour: "#d5dce2", name: "held out" }, { kind: "line", x, y: d.model, colour: BLUE, name: "model" }],
    });
  });
  if (noise.variance) {
    const v = noise.variance;
    chart(at("variance"), {
      title: "Variance against mean", x: { label: "clean intensity, grey values", name: "at" }, y: { label: "variance", min: 0 },
      layers: [{ kind: "dots", x: v.intensity, y: v.seen, colour: INK, name: "held out" }, { kind: "line", x: v.model_intensity, y: v.model, colour: BLUE, name: "model" }],
    });
  }
  if (noise.calibration) {
    const bins = noise.calibration.length, x = range(bins).map((k) => (k + 0.5) / bins);
    chart(at("calibration"), {
      title: "Calibration", x: { label: "probability of a smaller value, by the model", min: 0, max: 1, name: "at" }, y: { label: "share of pixels × " + bins, min: 0 },
      layers: [{ kind: "area", x, y: noise.calibration.map((c) => c * bins), colour: "#d5dce2", name: "held out" }], rules: [{ y: 1, text: "perfect", colour: BLUE }],
    });
  }
  drawCorrelation(noise);
}

function drawCorrelation(noise) {
  const lags = noise.autocorrelation;
  if (!lags) return;
  const line = (values, style) => values?.length && { kind: "line", x: range(values.length + 1), y: [1, ...values], ...style };
  const model = noise.correlation.length && { kind: "dots", x: range(noise.correlation.length, 1), y: noise.correlation, colour: ORANGE, name: "model" };
  chart(at("autocorrelation"), {
    title: "Autocorrelation", x: { label: "pixels apart", name: "lag", tick: 1 }, y: { label: "correlation", max: 1 },
    layers: [line(lags.x, { colour: BLUE, name: "along x" }), line(lags.y, { colour: INK, width: 1.4, name: "along y" }),
      line(lags.white_x, { colour: BLUE, dash: "4 3", width: 1.3, name: "x, whitened" }), model],
    rules: [{ y: 0, dash: "none", colour: GREY }],
  });
}

function drawEvidence() {
  const { fsc, whiteness } = DATA.evaluation, voxel = DATA.volume.voxel_nm;
  if (fsc?.frequency) {
    const scale = voxel ? 1 / voxel : 1, x = fsc.frequency.map((f) => f * scale), period = voxel ? fsc.resolution_nm : fsc.resolution_pixels;
    const rules = [{ y: fsc.threshold ?? 0.143, text: figure(fsc.threshold ?? 0.143) }, { y: 0, dash: "none", colour: GREY }];
    if (period) rules.push({ x: 1 / period, text: `${figure(period)} ${voxel ? "nm" : "pixels"}`, colour: BLUE });
    chart(at("fsc"), {
      title: "Fourier shell correlation of even and odd tilts", height: 230, x: { label: voxel ? "spatial frequency (1/nm)" : "spatial frequency (1/pixel)", name: "at", min: 0, max: x[x.length - 1] }, y: { label: "correlation", max: 1 },
      layers: [{ kind: "line", x, y: fsc.correlation, colour: BLUE, width: 2, name: "measured" },
        fsc.correlation_unmeasured && { kind: "line", x, y: fsc.correlation_unmeasured.map((c) => c || null), colour: GREY, width: 1.2, dash: "4 3", name: "never measured: from the prior" }], rules,
    });
  }
  if (whiteness?.correlation) {
    const reach = Math.max(0.1, ...Object.values(whiteness.correlation).flat().map(Math.abs)) * 1.05;
    const styles = { x: { colour: BLUE }, y: { colour: INK }, tilt: { colour: ORANGE } };
    chart(at("whiteness"), {
      title: "Correlation of whitened residuals", height: 230, x: { label: "pixels, or tilts, apart", name: "lag", tick: 1 }, y: { label: "correlation", min: -reach, max: reach },
      layers: Object.entries(whiteness.correlation).map(([axis, rho]) => ({ kind: "line", x: whiteness.lags ?? range(rho.length, 1), y: rho, name: `along ${axis}`, width: 1.6, ...styles[axis] })),
      rules: [{ y: 0, dash: "none", colour: GREY }],
    });
  }
}

function remember(values) {
  const now = new URLSearchParams(location.hash.slice(1));
  for (const [key, value] of Object.entries(values)) now.set(key, value);
  history.replaceState(null, "", "#" + now);
}

async function start() {
  drawFit();
  drawNoise();
  drawEvidence();
  const wanted = Object.fromEntries(Array.from(new URLSearchParams(location.hash.slice(1)), ([key, value]) => [key, Number(value)]));
  report.volume = await showVolume(DATA.volume, (point) => report.ready && remember(point));
  const { images } = DATA;
  let errors = null;
  if (images) {
    const moved = (index) => { errors?.mark(images.angle[index]); if (report.ready) remember({ tilt: images.number[index] }); };
    report.tilts = await showTilts(images, DATA.tilts, DATA.unit, moved);
    const turn = (number) => { const index = images.number.indexOf(number); if (index >= 0) report.tilts.show(index); };
    for (const button of document.querySelectorAll("button[data-tilt]")) {
      button.addEventListener("click", () => { turn(Number(button.dataset.tilt)); at("tilts").scrollIntoView({ behavior: "smooth" }); });
    }
    turn(wanted.tilt);
  }
  errors = drawErrors((index) => report.tilts?.show(images.number.indexOf(DATA.tilts.number[index])));
  if (images) errors?.mark(images.angle[report.tilts.at()]);
  report.volume.move(wanted);
  report.ready = true;
}

start();
