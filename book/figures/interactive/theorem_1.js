// Two paths from one start, step by step; all of them were computed beforehand.
const show = (root, data, part) => {
  const slider = part("step");
  const names = Object.keys(data.noises), all = Object.values(data.noises), last = all[0].plain.length - 1, WAIT = 90;
  const chosen = () => data.noises[names.find((name) => part(name).checked)];
  const points = all.flatMap((one) => [...one.variational, ...one.plain]);
  const range = (k) => [Math.min(...points.map((p) => p[k])), Math.max(...points.map((p) => p[k]))];
  const [xs, ys] = [range(0), range(1)];
  let plane = null, course = null;
  const power = (value) => {
    const [digits, exponent] = value.toExponential(0).split("e");
    return `${digits} · 10${[...String(Number(exponent))].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("")}`;
  };

  const update = () => {
    const noise = chosen(), i = Number(slider.value), d = noise.distance[i];
    const told = d <= data.floor ? "0" : d < 0.001 ? power(d) : d.toFixed(3);
    const apart = `After ${i} steps the two are ${told} apart`;
    part("step-value").textContent = i;
    slider.setAttribute("aria-valuetext", `step ${i}, distance ${told}`);
    part("says").textContent = noise.distance[last] < 1e-12
      ? `${apart}: rounding. They are one algorithm.`
      : `${apart}. With this noise on the labels they are two algorithms${d < 1e-12 ? ", and will part" : ""}.`;
    if (plane) {
      plane.variational.setAttribute("d", path(noise.variational.slice(0, i + 1).map(plane.at)));
      plane.plain.setAttribute("d", path(noise.plain.slice(0, i + 1).map(plane.at)));
      for (const name of ["variational", "plain"]) {
        const [x, y] = plane.at(noise[name][i]);
        plane.dots[name].setAttribute("cx", x.toFixed(1));
        plane.dots[name].setAttribute("cy", y.toFixed(1));
      }
    }
    if (course) {
      course.line.setAttribute("d", path(noise.distance.slice(0, i + 1).map((value, k) => course.at(k, value))));
      const [x, y] = course.at(i, d);
      course.dot.setAttribute("cx", x.toFixed(1));
      course.dot.setAttribute("cy", y.toFixed(1));
    }
  };

  for (const name of names) part(name).addEventListener("change", update);

  const LEFT = 46, BOTTOM = 36, TOP = 20;
  const height = (width) => Math.min(300, Math.max(220, Math.round(0.8 * width)));
  atEveryWidth(part("plane"), height, (width, tall) => {
    const svg = part("plane"), gap = 0.08;
    const pad = ([low, high]) => [low - gap * (high - low), high + gap * (high - low)];
    const x = scale(...pad(xs), LEFT, width - 8), y = scale(...pad(ys), tall - BOTTOM, TOP);
    for (const value of [-1, 0, 1]) {
      if (value > pad(xs)[0] && value < pad(xs)[1]) {
        draw(svg, "path", { class: "vlls-grid", d: `M${Math.round(x(value)) + 0.5} ${TOP}V${tall - BOTTOM}` });
        draw(svg, "text", { x: x(value), y: tall - BOTTOM + 15, "text-anchor": "middle" }, String(value).replace("-", "−"));
      }
      if (value > pad(ys)[0] && value < pad(ys)[1]) {
        draw(svg, "path", { class: "vlls-grid", d: `M${LEFT} ${Math.round(y(value)) + 0.5}H${width - 8}` });
        draw(svg, "text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, String(value).replace("-", "−"));
      }
    }
    draw(svg, "text", { x: (LEFT + width) / 2, y: tall - 3, "text-anchor": "middle" }, "first weight");
    draw(svg, "text", { x: 2, y: 11, class: "vlls-strong" }, "second weight: the paths of both");
    const line = (colour, wide, style = "") => {
      const drawn = draw(svg, "path", { class: `vlls-curve ${style}`, colour });
      drawn.style.strokeWidth = wide;
      return drawn;
    };
    plane = { at: ([a, b]) => [x(a), y(b)], variational: line("noise", 5), plain: line("blue", 2, "vlls-dashed") };
    const dot = (colour, r) => draw(svg, "circle", { class: "vlls-dot", r, colour });
    plane.dots = { variational: dot("noise", 7), plain: dot("blue", 4) };
    update();
  });
  atEveryWidth(part("distance"), height, (width, tall) => {
    const svg = part("distance"), lowest = Math.log10(data.floor);
    const x = scale(0, last, LEFT, width - 10), y = scale(lowest, 0.5, tall - BOTTOM, TOP);
    for (const exponent of [-16, -12, -8, -4, 0]) {
      draw(svg, "path", { class: "vlls-grid", d: `M${LEFT} ${Math.round(y(exponent)) + 0.5}H${width - 10}` });
      const label = exponent ? power(10 ** exponent).replace("1 · ", "") : "1";
      draw(svg, "text", { x: LEFT - 6, y: y(exponent) + 4, "text-anchor": "end" }, label);
    }
    for (const step of [0, last / 2, last])
      draw(svg, "text", { x: x(step), y: tall - BOTTOM + 15, "text-anchor": "middle" }, step);
    draw(svg, "text", { x: (LEFT + width) / 2, y: tall - 3, "text-anchor": "middle" }, "step");
    draw(svg, "text", { x: 2, y: 11, class: "vlls-strong" }, "distance of the two (logarithmic)");
    const line = draw(svg, "path", { class: "vlls-curve", colour: "green" });
    course = { at: (k, value) => [x(k), y(Math.log10(value))], line };
    course.dot = draw(svg, "circle", { class: "vlls-dot", r: 5, colour: "green" });
    update();
  });
  stepper(root, part, last, WAIT, update);
};
