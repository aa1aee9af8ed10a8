// What the interactive figures share. The figure's own file follows, with a function show(root, data, part).
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
