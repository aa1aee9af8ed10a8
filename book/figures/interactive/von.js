// The plane of two inputs while VON learns: one picture a step, all computed beforehand.
const show = (root, data, part) => {
  const slider = part("step"), plane = part("plane");
  const { steps, points, x: xs, y: ys } = data, last = steps.length - 1, WAIT = 750;
  const courses = [["elbo", (s) => s.elbo, "blue", 0], ["mean", (s) => s.mean, "noise", 2]];
  let view = null;
  const marks = {};
  const minus = (value, digits) => value.toFixed(digits).replace("-", "−");

  const update = () => {
    const i = Number(slider.value), step = steps[i];
    part("iteration").textContent = step.iteration;
    part("elbo").textContent = minus(step.elbo, 1);
    part("largest").textContent = step.largest.toFixed(3);
    part("mean").textContent = step.mean.toFixed(3);
    slider.setAttribute("aria-valuetext", `iteration ${step.iteration}, largest noise at the data ` +
      `${step.largest.toFixed(3)}, ELBO ${minus(step.elbo, 1)} nats`);
    if (view) {
      view.image.setAttribute("href", step.plane);
      view.half.setAttribute("d", view.lines(step.half));
      view.tenths.setAttribute("d", view.lines(step.tenths));
    }
    for (const { dot, places } of Object.values(marks)) {
      dot.setAttribute("cx", places[i][0]);
      dot.setAttribute("cy", places[i][1]);
    }
  };

  const LEFT = 44, BOTTOM = 38;
  const unit = (width) => (width - LEFT - 2) / (xs[1] - xs[0]); // pixels; the same both ways
  atEveryWidth(plane, (width) => Math.round(unit(width) * (ys[1] - ys[0])) + BOTTOM, (width, height) => {
    const x = scale(xs[0], xs[1], LEFT, width - 2), y = scale(ys[0], ys[1], height - BOTTOM, 0);
    const corner = { x: LEFT, y: 0, width: width - 2 - LEFT, height: height - BOTTOM };
    view = {
      image: draw(plane, "image", { ...corner, preserveAspectRatio: "none" }),
      lines: (lines) => lines.map((line) => {
        const places = [];
        for (let i = 0; i < line.length; i += 2) places.push([x(line[i]), y(line[i + 1])]);
        return path(places);
      }).join(""),
    };
    draw(plane, "rect", { ...corner, class: "vlls-grid" });
    const tick = (value, place, anchor) => draw(plane, "text", { ...place, "text-anchor": anchor }, minus(value, 0));
    for (let f = Math.ceil(xs[0]); f <= xs[1]; f++) tick(f, { x: x(f), y: height - 22 }, "middle");
    for (let f = Math.ceil(ys[0]); f <= ys[1]; f++) tick(f, { x: LEFT - 7, y: y(f) + 4 }, "end");
    draw(plane, "text", { x: (LEFT + width) / 2, y: height - 4, "text-anchor": "middle" }, "first coordinate");
    const middle = (height - BOTTOM) / 2;
    draw(plane, "text", { x: 11, y: middle, transform: `rotate(-90 11 ${middle})`, "text-anchor": "middle" },
      "second coordinate");
    const size = width < 500 ? 3 : 4;
    for (const [a, b, label] of points) {
      if (label) {
        const r = size * 1.25;
        draw(plane, "path", { class: "vlls-point1", d: `M${x(a)} ${y(b) - r}l${r} ${1.75 * r}h${-2 * r}Z` });
      } else draw(plane, "circle", { class: "vlls-point0", cx: x(a), cy: y(b), r: size });
    }
    view.tenths = draw(plane, "path", { class: "vlls-curve vlls-dashed", colour: "quiet" });
    view.half = draw(plane, "path", { class: "vlls-curve", colour: "ink" });
    update();
  });

  // How two numbers run over the iterations, the chosen one marked.
  for (const [name, of, colour, digits] of courses) {
    const svg = part(`course-${name}`), values = steps.map(of), low = Math.min(...values), high = Math.max(...values);
    atEveryWidth(svg, () => 92, (width) => {
      const x = scale(0, steps[last].iteration, 46, width - 10), y = scale(low, high, 66, 10);
      for (const value of [low, high]) {
        draw(svg, "path", { class: "vlls-grid", d: `M46 ${Math.round(y(value)) + 0.5}H${width - 4}` });
        draw(svg, "text", { x: 40, y: y(value) + 4, "text-anchor": "end" }, minus(value, digits));
      }
      const places = steps.map((step) => [x(step.iteration), y(of(step))]);
      draw(svg, "path", { class: "vlls-curve", colour, d: path(places) });
      for (const end of [0, last])
        draw(svg, "text", { x: places[end][0], y: 86, "text-anchor": end ? "end" : "start" }, steps[end].iteration);
      draw(svg, "text", { x: (46 + width - 10) / 2, y: 86, "text-anchor": "middle" }, "iteration");
      marks[name] = { dot: draw(svg, "circle", { class: "vlls-dot", r: 6, colour }), places };
      update();
    });
  }
  slider.value = data.first;
  stepper(root, part, last, WAIT, update);
};
