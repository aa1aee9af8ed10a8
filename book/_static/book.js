// Pages opened from the disk may not read other files, so the search cannot show lines of the pages that it finds.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined")
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// A displayed formula that is wider than its place is set smaller, down to six tenths; if it is wider still, it scrolls.
const fitFormulas = () => {
  for (const box of document.querySelectorAll(".bd-content mjx-container[display='true']")) {
    box.dataset.size ||= box.style.fontSize || "100%";
    box.style.fontSize = box.dataset.size;
    const share = box.clientWidth / (box.querySelector("mjx-math").getBoundingClientRect().width + 4);
    if (share < 1) box.style.fontSize = `${Math.max(0.6, share) * parseFloat(box.dataset.size)}%`;
  }
  for (const math of document.querySelectorAll(".bd-content .math")) {
    if (math.scrollWidth > math.clientWidth) math.tabIndex = 0; // the keyboard scrolls it
    else math.removeAttribute("tabindex");
  }
};
addEventListener("load", () => window.MathJax?.startup?.promise.then(() => {
  fitFormulas();
  addEventListener("resize", fitFormulas);
}));

// docutils makes the references a list, whose entries would have to be items: a screen reader counts none.
addEventListener("DOMContentLoaded", () => {
  for (const list of document.querySelectorAll(".citation-list")) list.removeAttribute("role");
});

// The theme's only menu, of the page's formats. The theme would open it with bootstrap, which is eighty kilobytes.
const closeMenus = (but) => {
  for (const button of document.querySelectorAll('[data-bs-toggle="dropdown"]')) {
    const open = button === but && button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", open);
    button.nextElementSibling.classList.toggle("show", open);
  }
};
addEventListener("click", event => closeMenus(event.target.closest('[data-bs-toggle="dropdown"]')));
addEventListener("keydown", event => event.key === "Escape" && closeMenus());

// The search shows lines of a page. The second copy of a formula, for browsers without JavaScript,
// is removed from them.
addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const toText = Search.htmlToText;
  Search.htmlToText = (page, ...rest) => toText(page.replace(/<noscript>.*?<\/noscript>/gs, ""), ...rest);
});
