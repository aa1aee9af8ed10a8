// The mean noise and the sampled noise of a label. The formulas come first; the tests compare them with vlls.
const softmax = (f) => {
  const top = Math.max(...f), powers = f.map((x) => Math.exp(x - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
};

// Orthonormal directions of logits that sum to 0, over √2: a difference of two logits has the variance 1.
const DIRECTIONS = { 2: [[0.5, -0.5]], 3: [[0.5, -0.5, 0], [1, 1, -2].map((x) => x / Math.sqrt(12))] };

// Logits at the point e of a standard normal in the space of the directions.
const drawn = (f, v, e) =>
  f.map((x, k) => x + Math.sqrt(v) * DIRECTIONS[f.length].reduce((sum, d, j) => sum + d[k] * e[j], 0));

// Nodes and weights of the trapezoid rule under that normal. It converges exponentially, because all is analytic.
const nodes = (dimensions, step = 0.35, radius = 6.3) => {
  const n = Math.floor(radius / step), line = Array.from({ length: 2 * n + 1 }, (_, i) => step * (i - n));
  const places = dimensions === 1 ? line.map((a) => [a]) : line.flatMap((a) => line.map((b) => [a, b]));
  const found = places.map((e) => ({ e, square: e.reduce((sum, x) => sum + x * x, 0) }))
    .filter(({ square }) => square <= radius * radius);
  const weights = found.map(({ square }) => Math.exp(-square / 2)), total = weights.reduce((a, b) => a + b, 0);
  return found.map(({ e }, i) => ({ e, weight: weights[i] / total }));
};
const NODES = { 2: nodes(1), 3: nodes(2) };

// By class: the mean noise, the size of the sampled noise, and the first order of that size.
const noises = (f, v) => {
  const p = softmax(f), mean = f.map(() => 0), square = f.map(() => 0);
  for (const { e, weight } of NODES[f.length])
    softmax(drawn(f, v, e)).forEach((q, k) => {
      mean[k] += weight * (p[k] - q);
      square[k] += weight * (p[k] - q) ** 2;
    });
  const along = DIRECTIONS[f.length].map((d) => d.reduce((sum, x, j) => sum + p[j] * x, 0));
  const order = p.map((x, k) => Math.sqrt(v) * x * Math.hypot(...DIRECTIONS[f.length].map((d, j) => d[k] - along[j])));
  return { mean, size: square.map(Math.sqrt), order };
};

const show = (root, data, part) => {
  const first = part("first"), second = part("second"), variance = part("variance"), three = part("three-classes");
  const height = 372, under = 176, limit = Number(first.max), top = 0.8, rows = 138;
  const places = Array.from({ length: 61 }, (_, i) => limit * (i / 30 - 1));
  const widths = {};
  const signed = (value, digits) => (value < -0.5 * 10 ** -digits ? "−" : "") + Math.abs(value).toFixed(digits);

  // The labels: two classes have the label 0 or 1 of one number, three a label of three, which is that of A.
  const labels = (k) => (k === 2 ? [["label 0", 0, 0], ["label 1", 1, 0]]
    : [["A (the label)", 1, 0], ["B", 0, 1], ["C", 0, 2]]);

  // A panel without its noise: the labels as bars on an axis from -1 to 2, and under it axes against the logit.
  const frame = (svg, width, k, curve) => {
    const x = scale(-1, 2, 8, width - 8), at = scale(-limit, limit, 34, width - 8);
    const y = scale(-top, top, height - 40, under + 24), row = rows / labels(k).length;
    svg.replaceChildren();
    draw(svg, "rect", { x: x(0), y: 0, width: x(1) - x(0), height: rows, fill: "var(--vlls-card)" });
    for (const value of [-1, 0, 1, 2]) {
      draw(svg, "path", { class: "vlls-grid", d: `M${Math.round(x(value)) + 0.5} ${value * (1 - value) ? rows - 5 : 0}V${rows}` });
      draw(svg, "text", { x: x(value), y: rows + 14, "text-anchor": "middle" }, signed(value, 0));
    }
    for (const value of [-0.5, 0, 0.5]) {
      draw(svg, "path", { class: "vlls-grid", d: `M34 ${Math.round(y(value)) + 0.5}H${width - 8}` });
      draw(svg, "text", { x: 28, y: y(value) + 4, "text-anchor": "end" }, signed(value, 1));
    }
    for (let f = -limit; f <= limit; f += 2)
      draw(svg, "text", { x: at(f), y: height - 22, "text-anchor": "middle" }, signed(f, 0));
    draw(svg, "text", { x: at(0), y: height - 5, "text-anchor": "middle" }, k === 2 ? "f (logit)" : "logit of A");
    draw(svg, "text", { x: 0, y: under + 12, class: "vlls-strong" }, `${curve}${k === 2 ? "" : ", class A"}`);
    draw(svg, "path", { class: "vlls-grid", d: `M${Math.round(at(Number(first.value))) + 0.5} ${y(-top)}V${y(top)}` });
    const bars = labels(k).map(([name, label, index], i) => {
      const low = row * (i + 0.5) - 4;
      draw(svg, "text", { x: 0, y: low - 5, class: "vlls-strong" }, name);
      if (label)
        draw(svg, "rect", { x: x(0), y: low + 2, width: x(1) - x(0), height: 10, fill: "var(--vlls-quiet)", opacity: 0.3 });
      return { label, index, y: low, tell: (text) => draw(svg, "text", { x: width, y: low - 5, "text-anchor": "end" }, text) };
    });
    const line = (values, colour, style = "") => draw(svg, "path",
      { class: `vlls-curve ${style}`, d: path(values.map((value, i) => [at(places[i]), y(value)])), colour });
    const dot = (value, colour) =>
      draw(svg, "circle", { class: "vlls-dot", r: 5, cx: at(Number(first.value)), cy: y(value), colour });
    return { svg, x, at, y, bars, line, dot };
  };

  // The part inside [0, 1] is pale.
  const stretch = ({ svg, x }, from, to, y, colour) => {
    const [low, high] = from < to ? [from, to] : [to, from];
    for (const [a, b, opacity] of [[low, Math.min(high, 0), 1], [Math.max(low, 0), Math.min(high, 1), 0.5],
      [Math.max(low, 1), high, 1]])
      if (b > a)
        draw(svg, "rect", { x: x(a), y, width: Math.max(x(b) - x(a), 1), height: 10, fill: `var(--vlls-${colour})`, opacity });
  };

  const update = () => {
    const k = three.checked ? 3 : 2, v = Number(variance.value), f = Number(first.value), b = Number(second.value);
    const logits = (a) => (k === 2 ? [a, 0] : [a, b, 0]);
    const here = noises(logits(f), v), p = softmax(logits(f)), curve = places.map((a) => noises(logits(a), v));
    second.parentElement.hidden = k === 2;
    part("first-name").textContent = k === 2 ? "logit f" : "logit of A (that of C is 0)";
    part("variance-name").textContent = k === 2 ? "variance v of f" : "variance v of differences";
    for (const [name, value, digits] of [["first-value", f, 1], ["second-value", b, 1], ["variance-value", v, 2],
      ["mean", here.mean[0], 4], ["size", here.size[0], 4], ["order", here.order[0], 4]])
      part(name).textContent = signed(value, digits);
    for (const slider of [first, second, variance])
      slider.setAttribute("aria-valuetext", `${signed(Number(slider.value), 2)}; mean noise ${signed(here.mean[0], 4)}, ` +
        `size of the sampled noise ${signed(here.size[0], 4)}`);
    part("says").textContent = k === 2 ? ofTwo(f, here.mean[0]) : ofThree(p, here.mean);

    if (widths.mean) {
      const panel = frame(part("mean-plot"), widths.mean, k, "mean noise");
      for (const { label, index, y, tell } of panel.bars) {
        const noisy = label + here.mean[index];
        stretch(panel, label, noisy, y + 2, "noise");
        draw(panel.svg, "path", { class: "vlls-curve", d: path([[panel.x(noisy), y - 1], [panel.x(noisy), y + 15]]), colour: "noise" });
        tell(signed(noisy, 3));
      }
      panel.line(curve.map(({ mean }) => mean[0]), "noise");
      panel.dot(here.mean[0], "noise");
    }
    if (widths.sampled) {
      const panel = frame(part("sampled-plot"), widths.sampled, k, "size, ±; dashed: first order (Eq. 20)");
      const draws = data.draws[k - 2].map((e) => softmax(drawn(logits(f), v, e)));
      for (const { label, index, y, tell } of panel.bars) {
        stretch(panel, label - here.size[index], label + here.size[index], y + 2, "blue");
        const ticks = draws.map((q) => panel.x(label + p[index] - q[index])).map((place) => path([[place, y + 14], [place, y + 22]]));
        draw(panel.svg, "path", { class: "vlls-curve", d: ticks.join(""), colour: "blue" }).style.strokeWidth = 1;
        tell(`${label} ± ${here.size[index].toFixed(3)}`);
      }
      const { at, y } = panel, sizes = curve.map(({ size }) => size[0]);
      const edge = [...sizes.map((s, i) => [at(places[i]), y(s)]), ...sizes.map((s, i) => [at(places[i]), y(-s)]).reverse()];
      draw(panel.svg, "path", { d: `${path(edge)}Z`, fill: "var(--vlls-blue)", opacity: 0.25 });
      for (const sign of [1, -1]) {
        panel.line(sizes.map((s) => sign * s), "blue");
        panel.line(curve.map(({ order }) => sign * order[0]), "quiet", "vlls-dashed");
        panel.dot(sign * here.size[0], "blue");
      }
    }
  };

  const ofTwo = (f, e) => (f === 0
    ? "The model is undecided: no mean noise. "
    : `On average label ${e > 0 ? 0 : 1}, which the model contradicts, moves towards ½, and label ${e > 0 ? 1 : 0}, with ` +
      `which it agrees, beyond ${e > 0 ? 1 : 0}. `) +
    "Every draw takes one of the two labels beyond its end, and each label in half of the draws.";
  const ofThree = (p, e) => {
    const likely = Math.max(...p), best = ["A", "B", "C"].filter((_, k) => p[k] > likely - 1e-9);
    return `The model ${best.length > 1 ? `is undecided between ${best.join(" and ")}` : `predicts ${best[0]}`}; the label is A. ` +
      (Math.max(...e) < 1e-9 ? "There is no mean noise. " : e[0] < 0 && e[1] >= 0 && e[2] >= 0
        ? "The mean noise smooths it, within [0, 1]. " : "The mean noise takes it out of [0, 1]. ") +
      "Draws go to either side. The numbers above are those of A.";
  };

  for (const name of ["mean", "sampled"])
    atEveryWidth(part(`${name}-plot`), () => height, (width) => {
      widths[name] = width;
      update();
    });
  for (const input of root.querySelectorAll("input")) input.addEventListener("input", update);
  update();
};
