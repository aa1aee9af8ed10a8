// Functions that the interactive figures share. The figure's own file follows, with a function show(root, data, part).
const start = (kind, show) => {
  for (const root of document.querySelectorAll(`.vlls-figure[data-vlls="${kind}"]:not([data-ready])`)) {
    root.dataset.ready = "";
    const part = (name) => root.querySelector(`[data-part="${name}"]`);
    show(root, JSON.parse(root.querySelector('script[type="application/json"]').textContent), part);
    root.querySelector(".vlls-instead").hidden = true;
    root.querySelector(".vlls-live").hidden = false;
  }
};

// Adds an element to a drawing. Attributes are numbers or texts; a colour is the name of one of the palette's.
const draw = (parent, tag, { colour, ...attributes }, text = "") => {
  const element = document.createElementNS(parent.namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (colour) element.style.setProperty("--c", `var(--vlls-${colour})`);
  element.textContent = text;
  return parent.appendChild(element);
};

const scale = (from, to, low, high) => (value) => low + ((value - from) / (to - from)) * (high - low);
const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// Draws again whenever the width changes; a drawing has as many units as pixels, so that its letters keep their size.
const atEveryWidth = (svg, height, redraw) => {
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (!width || width === last) return;
    last = width;
    svg.setAttribute("viewBox", `0 0 ${width} ${height(width)}`);
    svg.setAttribute("height", height(width));
    svg.replaceChildren();
    redraw(width, height(width));
  }).observe(svg);
};

// The slider over steps 0 to last with its buttons Play, Back and Next; update() shows the step that the slider is at.
const stepper = (root, part, last, wait, update) => {
  const slider = part("step"), play = part("play"), buttons = [[part("back"), -1, 0], [part("next"), 1, last]];
  let timer = null;
  const show = () => {
    update();
    for (const [button, , end] of buttons) button.disabled = Number(slider.value) === end;
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  const go = (i) => {
    slider.value = i;
    show();
  };
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) === last) go(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      if (!root.isConnected) return stop(); // the cell was run again
      go(Number(slider.value) + 1);
      if (Number(slider.value) === last) stop();
    }, wait);
  });
  for (const [button, move] of buttons)
    button.addEventListener("click", () => {
      stop();
      go(Number(slider.value) + move);
    });
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  show();
};
