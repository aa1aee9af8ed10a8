// The order of the search's results. Matches in titles come first: of chapters, their sections, the API. For a number
// of the paper, such as "Eq. 20", the page that lists them all is next. All others follow in Sphinx's order.
var Scorer = {
  score: ([page, title, anchor, description, score]) => {
    const words = (new URLSearchParams(window.location.search).get("q") || "").trim().toLowerCase();
    const isText = description === null; // and not a name of the API
    if (isText && words && title.toLowerCase().includes(words))
      return score + (page.startsWith("book/api/") ? 100 : anchor ? 200 : 300);
    const isNumber = /^(algorithm|appendix|definition|eqs?|equation|fig|figure|section|table|theorem)\.? ?\w[\w.]*$/;
    return page === "book/paper" && isNumber.test(words) ? score + 50 : score;
  },
  // the rest are Sphinx's own values
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
