"use strict";
// Small charts in SVG: lines, dots, steps and areas over two linear axes, with the values at the pointer.

const INK = "#16202a", SOFT = "#55626f", RULE = "#e4e8eb", BLUE = "#1d5fa6", ORANGE = "#cf6a1f", GREY = "#9aa5af";

/** A number to a few digits, with a true minus. */
function figure(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size >= 1e5 || size < 1e-3)
    ? value.toExponential(digits - 1).replace(/e\+?(-?\d+)/, (_, power) => "·10" + raised(power))
    : size >= 10 ** digits ? value.toFixed(0) : String(Number(value.toPrecision(digits)));
  return text.replace(/-/g, "−");
}

function raised(power) {
  return String(power).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"["0123456789-".indexOf(c)]);
}

/** Round values between two ends, about `count` of them: 1, 2 or 5 times a power of ten apart. */
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-6); k * step <= high + step * 1e-6; k++) found.push(k * step);
  return { step, values: found };
}

function element(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

function tag(name, className, text, parent) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

/** Finite points of a layer. */
function points(layer) {
  return layer.x.map((x, i) => [x, layer.y[i]]).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y) && y !== null);
}

function extent(given, values) {
  let [low, high] = [given.min ?? Math.min(...values), given.max ?? Math.max(...values)];
  if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
  const room = (high - low) * 0.05;
  return [given.min ?? low - room, given.max ?? high + room];
}

/**
 * Draw a chart into `host`, again whenever its width changes.
 *
 * spec: title; height; x and y, each { label, min, max, tick }; layers, each { kind: line | dots | steps | area, x, y, colour,
 * name, width, dash, radius, tell }; rules, each { x or y, text, colour, dash }; pick, called with the index of the
 * point of the first layer that is nearest to a click.
 */
function chart(host, spec) {
  const layers = spec.layers.filter((layer) => layer && points(layer).length);
  if (!host || !layers.length) return null;
  host.replaceChildren();
  const head = tag("div", "head", undefined, host);
  tag("b", "", spec.title, head);
  keys(head, layers);
  const told = tag("div", "told", "", host);
  told.hidden = true;
  const state = { host, spec, layers, told, svg: null };
  new ResizeObserver(() => draw(state)).observe(host);
  draw(state);
  return { mark: (x) => { spec.mark = x; mark(state); } };
}

function keys(head, layers) {
  const named = layers.filter((layer) => layer.name);
  if (!named.length) return;
  const list = tag("span", "keys", undefined, head);
  for (const layer of named) {
    const entry = tag("span", "", undefined, list);
    const sign = tag("i", layer.kind === "dots" ? "dots" : layer.kind === "area" ? "area" : "", undefined, entry);
    if (layer.kind === "dots" || layer.kind === "area") sign.style.background = layer.colour;
    else { sign.style.borderColor = layer.colour; if (layer.dash) sign.style.borderTopStyle = "dashed"; }
    entry.append(layer.name);
  }
}

function draw(state) {
  const { host, spec, layers } = state, width = Math.round(host.clientWidth), height = spec.height ?? 190;
  if (!width || width === state.width) return;
  state.width = width;
  state.svg?.remove();
  const all = layers.flatMap(points), rules = spec.rules ?? [];
  const x = extent(spec.x, all.map((p) => p[0]));
  const y = extent(spec.y, all.map((p) => p[1]).concat(rules.filter((r) => r.y !== undefined).map((r) => r.y)));
  const big = Math.max(Math.abs(y[0]), Math.abs(y[1]));
  const power = big >= 1e5 || big < 1e-2 ? 3 * Math.floor(Math.log10(big) / 3) : 0;
  const yTicks = ticks(y[0], y[1], height > 150 ? 5 : 4);
  const digits = Math.max(0, -Math.floor(Math.log10(yTicks.step / 10 ** power) + 1e-9));
  const named = yTicks.values.map((v) => (v / 10 ** power).toFixed(digits).replace("-", "−"));
  const left = 16 + 7 * Math.max(...named.map((n) => n.length)) + 16, bottom = 40, top = 8, right = 8;
  const at = { x: (v) => left + (v - x[0]) / (x[1] - x[0]) * (width - left - right),
               y: (v) => height - bottom - (v - y[0]) / (y[1] - y[0]) * (height - bottom - top) };
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": spec.title });
  Object.assign(state, { svg, at, left, right, top, bottom, height, x });
  yTicks.values.forEach((v, i) => {
    element("line", { x1: left, x2: width - right, y1: at.y(v), y2: at.y(v), stroke: RULE }, svg);
    element("text", { x: left - 7, y: at.y(v) + 4, "text-anchor": "end" }, svg).textContent = named[i];
  });
  xAxis(state, width);
  const label = spec.y.label + (power ? ` (10${raised(power)})` : "");
  element("text", { transform: `translate(11 ${(height - bottom + top) / 2}) rotate(-90)`, "text-anchor": "middle" }, svg).textContent = label;
  const clip = "clip" + Math.random().toString(36).slice(2);
  element("rect", { x: left, y: top - 3, width: width - left - right + 3, height: height - bottom - top + 6 }, element("clipPath", { id: clip }, svg));
  const inside = element("g", { "clip-path": `url(#${clip})` }, svg);
  const [areas, others] = [true, false].map((area) => layers.filter((layer) => (layer.kind === "area") === area));
  areas.forEach((layer) => drawLayer(layer, at, inside, height - bottom));
  rules.forEach((rule) => drawRule(state, rule, inside, width));
  others.forEach((layer) => drawLayer(layer, at, inside, height - bottom));
  state.marker = element("line", { y1: top, y2: height - bottom, stroke: INK, "stroke-width": 1.2, visibility: "hidden" }, svg);
  state.guide = element("line", { y1: top, y2: height - bottom, stroke: GREY, visibility: "hidden" }, svg);
  svg.addEventListener("pointermove", (event) => tell(state, event));
  svg.addEventListener("pointerleave", () => { state.told.hidden = true; state.guide.setAttribute("visibility", "hidden"); });
  svg.addEventListener("click", (event) => spec.pick?.(nearest(state, event, layers[0])));
  host.append(svg);
  mark(state);
}

function xAxis({ spec, svg, at, left, right, bottom, height, x }, width) {
  const line = height - bottom, found = ticks(x[0], x[1], Math.max(3, Math.min(9, (width - left) / 70)));
  const values = spec.x.tick ? found.values.filter((v) => Number.isInteger(v / spec.x.tick)) : found.values;
  const big = Math.max(Math.abs(x[0]), Math.abs(x[1])), power = big >= 1e5 || big < 1e-2 ? 3 * Math.floor(Math.log10(big) / 3) : 0;
  element("line", { x1: left, x2: width - right, y1: line, y2: line, stroke: GREY }, svg);
  for (const v of values) {
    element("line", { x1: at.x(v), x2: at.x(v), y1: line, y2: line + 4, stroke: GREY }, svg);
    element("text", { x: at.x(v), y: line + 17, "text-anchor": "middle" }, svg).textContent = figure(v / 10 ** power, 4);
  }
  const label = spec.x.label + (power ? ` (10${raised(power)})` : "");
  element("text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, svg).textContent = label;
}

function drawRule({ at, left, right, top, height, bottom }, rule, parent, width) {
  const style = { stroke: rule.colour ?? SOFT, "stroke-width": 1.2, "stroke-dasharray": rule.dash ?? "4 3" };
  if (rule.y !== undefined) {
    element("line", { x1: left, x2: width - right, y1: at.y(rule.y), y2: at.y(rule.y), ...style }, parent);
    if (rule.text) element("text", { x: left + 5, y: at.y(rule.y) - 5 }, parent).textContent = rule.text;
  } else {
    element("line", { x1: at.x(rule.x), x2: at.x(rule.x), y1: top, y2: height - bottom, ...style }, parent);
    const flip = at.x(rule.x) > width * 0.6;
    if (rule.text) element("text", { x: at.x(rule.x) + (flip ? -6 : 6), y: top + 12, "text-anchor": flip ? "end" : "start" }, parent).textContent = rule.text;
  }
}

function drawLayer(layer, at, parent, floor) {
  const found = points(layer), colour = layer.colour ?? BLUE;
  if (layer.kind === "dots") {
    found.forEach(([x, y]) => element("circle", { cx: at.x(x), cy: at.y(y), r: layer.radius ?? 3, fill: colour }, parent));
    return;
  }
  const half = layer.kind === "line" || found.length < 2 ? 0 : (found[1][0] - found[0][0]) / 2;
  const corners = half ? found.flatMap(([x, y]) => [[x - half, y], [x + half, y]]) : found;
  const path = corners.map(([x, y], i) => `${i ? "L" : "M"}${at.x(x).toFixed(1)} ${at.y(y).toFixed(1)}`).join("");
  if (layer.kind === "area") {
    const [first, last] = [corners[0], corners[corners.length - 1]];
    const closed = `${path}L${at.x(last[0]).toFixed(1)} ${floor}L${at.x(first[0]).toFixed(1)} ${floor}Z`;
    element("path", { d: closed, fill: colour }, parent);
    return;
  }
  const style = { d: path, fill: "none", stroke: colour, "stroke-width": layer.width ?? 1.8, "stroke-linejoin": "round" };
  element("path", layer.dash ? { ...style, "stroke-dasharray": layer.dash } : style, parent);
}

function nearest(state, event, layer) {
  const box = state.svg.getBoundingClientRect(), place = (event.clientX - box.left) * state.width / box.width;
  let best = 0;
  layer.x.forEach((x, i) => { if (Math.abs(state.at.x(x) - place) < Math.abs(state.at.x(layer.x[best]) - place)) best = i; });
  return best;
}

function tell(state, event) {
  const { layers, spec, told, at, guide, svg } = state, i = nearest(state, event, layers[0]), x = layers[0].x[i];
  const lines = layers.filter((layer) => layer.tell !== false && Number.isFinite(layer.y[layer.x.indexOf(x)]));
  if (!lines.length) return;
  const values = lines.map((layer) => `${layer.name ? layer.name + " " : ""}${figure(layer.y[layer.x.indexOf(x)])}`);
  told.textContent = `${spec.x.name ?? spec.x.label}${spec.x.name === "" ? "" : " "}${spec.describe?.(i) ?? figure(x, 4)}: ${values.join(", ")}`;
  told.hidden = false;
  const place = at.x(x) * svg.getBoundingClientRect().width / state.width;
  told.style.left = `${Math.min(Math.max(0, place - told.offsetWidth / 2), state.host.clientWidth - told.offsetWidth)}px`;
  told.style.top = `${state.host.firstChild.offsetHeight - told.offsetHeight + 2}px`;
  for (const end of ["x1", "x2"]) guide.setAttribute(end, at.x(x));
  guide.setAttribute("visibility", "visible");
}

function mark({ spec, marker, at }) {
  if (!marker || spec.mark === undefined) return;
  for (const end of ["x1", "x2"]) marker.setAttribute(end, at.x(spec.mark));
  marker.setAttribute("visibility", "visible");
}
