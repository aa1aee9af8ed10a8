// Figure 2 with a mean and a variance to choose. All numbers are vlls's: a table over mean and standard deviation,
// between whose entries a cubic runs.
const show = (root, data, part) => {
  const { step, columns, noise, sigmoid } = data;

  // The cubic through four equidistant values, at a place between the two in the middle.
  const cubic = (a, b, c, d, t) =>
    (-a * t * (t - 1) * (t - 2)) / 6 + (b * (t + 1) * (t - 1) * (t - 2)) / 2 -
    (c * (t + 1) * t * (t - 2)) / 2 + (d * (t + 1) * t * (t - 1)) / 6;
  const between = (value, at) => {
    const i = Math.floor(at), t = at - i;
    return t ? cubic(value(i - 1), value(i), value(i + 1), value(i + 2), t) : value(i);
  };
  // Both tables start at 0; the noise is odd in the mean and even in the standard deviation.
  const entry = (row, i) => Math.sign(i) * noise[Math.abs(row) * columns + Math.abs(i)];
  const epsilon = (mean, variance) =>
    between((row) => between((i) => entry(row, i), mean / step), Math.sqrt(variance) / step);
  const sigma = (mean) => between((i) => (i < 0 ? 1 - sigmoid[-i] : sigmoid[i]), mean / step);

  const mean = part("mean"), variance = part("variance"), svg = part("plot");
  const limit = data.axis, top = data.top, height = 436, middle = 232;
  // From -1 to 1 in n steps to either side.
  const range = (n) => Array.from({ length: 2 * n + 1 }, (_, i) => i / n - 1);
  const places = range(100).map((part) => limit * part);
  let view = null;

  const signed = (value, digits) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
  const tell = (name, value, digits) => (part(name).textContent = signed(value, digits));

  const update = () => {
    const m = Number(mean.value), v = Number(variance.value), e = epsilon(m, v), s = sigma(m);
    tell("mean-value", m, 1);
    tell("variance-value", v, 2);
    tell("sigma", s, 4);
    tell("expected", s - e, 4);
    tell("noise", e, 4);
    tell("zero", e, 4);
    tell("one", 1 + e, 4);
    for (const slider of [mean, variance])
      slider.setAttribute("aria-valuetext", `${signed(Number(slider.value), 2)}; noise ${signed(e, 4)}`);
    part("says").textContent = m === 0
      ? "The mean is 0: the sigmoid bends as much to one side as to the other, and there is no noise."
      : `The noise ${e > 0 ? "raises" : "lowers"} both labels. Label ${e > 0 ? 0 : 1} moves towards the other one ` +
        `and gets softer; label ${e > 0 ? 1 : 0} is pushed away from it.`;
    if (!view) return;
    const { x, up, down } = view, spread = Math.sqrt(v), at = x(m);
    const bell = (f) => up((0.95 / (1 + spread)) * Math.exp((-(f - m) * (f - m)) / (2 * v)));
    const dense = range(80).map((i) => m + 4 * spread * i).filter((f) => Math.abs(f) <= limit);
    const ends = [Math.max(-limit, m - 4 * spread), Math.min(limit, m + 4 * spread)];
    const outline = [ends[0], ...dense, ends[1]].map((f) => [x(f), bell(f)]);
    view.bell.setAttribute("d", `${path([[x(ends[0]), up(0)], ...outline, [x(ends[1]), up(0)]])}Z`);
    view.curve.setAttribute("d", path(places.map((f) => [x(f), down(epsilon(f, v))])));
    view.level.setAttribute("d", path([[x(-limit), up(s - e)], [at, up(s - e)]]));
    view.gap.setAttribute("d", path([[at, up(s)], [at, up(s - e)]]));
    view.stem.setAttribute("d", path([[at, down(0)], [at, down(e)]]));
    view.guide.setAttribute("d", path([[at, up(0)], [at, up(1)]]) + path([[at, down(top)], [at, down(-top)]]));
    for (const [dot, y] of [[view.atMean, up(s)], [view.average, up(s - e)], [view.point, down(e)]]) {
      dot.setAttribute("cx", at.toFixed(1));
      dot.setAttribute("cy", y.toFixed(1));
    }
  };

  atEveryWidth(svg, () => height, (width) => {
    const x = scale(-limit, limit, 44, width - 10);
    const up = scale(0, 1, middle - 28, 28), down = scale(-top, top, height - 40, middle + 22);
    const ticks = (values, y, digits) => values.forEach((value) => {
      draw(svg, "path", { class: "vlls-grid", d: `M44 ${Math.round(y(value)) + 0.5}H${width - 10}` });
      draw(svg, "text", { x: 38, y: y(value) + 4, "text-anchor": "end" }, signed(value, digits));
    });
    ticks([0, 0.5, 1], up, 1);
    ticks([-data.tick, 0, data.tick], down, 1);
    const gap = width < 500 ? 4 : 2, outer = gap * Math.floor(limit / gap);
    for (let f = -outer; f <= outer; f += gap)
      draw(svg, "text", { x: x(f), y: height - 20, "text-anchor": "middle" }, signed(f, 0));
    draw(svg, "text", { x: (44 + width - 10) / 2, y: height - 3, "text-anchor": "middle" }, "f (logit)");
    draw(svg, "text", { x: 2, y: 11, class: "vlls-strong" }, "σ(f) (probability) and the Gaussian of f (own scale)");
    draw(svg, "text", { x: 2, y: middle + 8, class: "vlls-strong" }, "label noise ε (probability); dashed: v = 1");
    const line = (name, colour, style = "") => draw(svg, "path", { class: `${name} ${style}`, colour });
    view = { x, up, down };
    view.guide = line("vlls-grid");
    view.bell = draw(svg, "path", { fill: "var(--vlls-sky)", opacity: 0.45 });
    line("vlls-curve", "ink").setAttribute("d", path(places.map((f) => [x(f), up(sigma(f))])));
    line("vlls-curve", "quiet", "vlls-dashed").setAttribute("d", path(places.map((f) => [x(f), down(epsilon(f, 1))])));
    view.curve = line("vlls-curve", "noise");
    view.level = line("vlls-curve", "orange", "vlls-dashed");
    view.gap = line("vlls-curve", "noise");
    view.stem = line("vlls-curve", "noise");
    for (const name of ["gap", "stem"]) view[name].style.strokeWidth = 4;
    const dot = (colour) => draw(svg, "circle", { class: "vlls-dot", r: 6, colour });
    [view.atMean, view.average, view.point] = [dot("blue"), dot("orange"), dot("noise")];
    update();
  });

  // Pointing into the picture moves the mean too.
  const point = (event) => {
    const f = scale(view.x(-limit), view.x(limit), -limit, limit)(event.clientX - svg.getBoundingClientRect().left);
    mean.value = f; // the slider rounds to its steps and stays in its range
    update();
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    point(event);
  });
  svg.addEventListener("pointermove", (event) => svg.hasPointerCapture(event.pointerId) && point(event));
  mean.addEventListener("input", update);
  variance.addEventListener("input", update);
  update();
};
