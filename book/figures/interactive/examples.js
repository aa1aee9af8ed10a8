// Images with their label noise: the one that is pointed at, or chosen by keyboard or touch, is described in a panel.
const show = (root, data, part) => {
  const panel = part("bars"), radios = [...root.querySelectorAll('input[type="radio"]')];
  const rows = data.classes.map((name, k) => {
    const row = document.createElement("span"), cells = ["i", "u", "i", "i"].map((tag) => document.createElement(tag));
    const holder = document.createElement("div");
    holder.append(cells[1]);
    holder.style.display = "grid";
    cells[0].textContent = name;
    row.append(cells[0], holder, cells[2], cells[3]);
    panel.append(row);
    return { row, bar: cells[1], std: cells[2], p: cells[3] };
  });

  const describe = (i) => {
    const example = data.examples[i], image = root.querySelectorAll(".vlls-images img")[i];
    part("image").src = image.src;
    part("image").alt = image.alt;
    part("label").textContent = data.classes[example.label];
    part("predicted").textContent = data.classes[example.predicted];
    part("noise").textContent = example.noise;
    rows.forEach(({ row, bar, std, p }, k) => {
      row.classList.toggle("vlls-own", k === example.label);
      bar.style.width = `${(100 * example.bars[k]) / data.top}%`;
      std.textContent = example.std[k];
      p.textContent = example.p[k];
    });
  };

  radios.forEach((radio, i) => {
    const choose = () => {
      radio.checked = true;
      describe(i);
    };
    radio.addEventListener("change", choose);
    radio.addEventListener("focus", () => describe(radios.findIndex((other) => other.checked)));
    radio.parentElement.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && choose());
  });
  const chosen = radios.findIndex((radio) => radio.checked); // a browser may remember the last choice
  describe(Math.max(chosen, 0));
};
