// What Material leaves out: for screen readers the name of the search, and that a copy button is no navigation; for the
// keyboard, a way into tables that scroll.
const complete = () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach(one => one.setAttribute("role", "none"));
  for (const one of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
  }
};
complete();
new MutationObserver(complete).observe(document.body, { childList: true, subtree: true });
