"""Finds parts of a page, its cells and its controls that do not fit into the window."""

from playwright.sync_api import Page, expect

from browser.pictures import HEIGHT, WIDTHS

# Excludes rows that scroll sideways on purpose: they fade at the side on which they continue.
MISFITS = """
() => {
  const found = [], width = document.documentElement.clientWidth;
  const said = (one) => `<${one.localName} class="${one.className}"> ${
    (one.getAttribute("aria-label") ?? one.textContent).trim().slice(0, 40)}`;
  const scrolls = document.documentElement.scrollWidth - width;
  if (scrolls > 0) found.push(`the page is ${scrolls} px wider than the window`);
  const isSeen = (one) => one.checkVisibility({ visibilityProperty: true }) &&
    one.getBoundingClientRect().width > 1;
  const controls = "main :is(a, button, input, select, textarea, summary)";
  for (const one of document.querySelectorAll(`header.top button, ${controls}`)) {
    if (!isSeen(one) || one.closest("[data-more], q-code, .hidden-visually, .skip")) continue;
    const { left, right } = one.getBoundingClientRect();
    const around = [];
    for (let box = one.parentElement; box && box.localName !== "main"; box = box.parentElement) {
      around.push([box, getComputedStyle(box)]);
    }
    // A link whose name is cut short can be followed.
    if (around.some(([, style]) => style.textOverflow === "ellipsis")) continue;
    if (left < 0 || right > width + 0.5) found.push(`out of the window: ${said(one)}`);
    const cutting = around.find(([box, style]) =>
      style.overflowX !== "visible" && right > box.getBoundingClientRect().right + 1);
    if (cutting) found.push(`cut off by <${cutting[0].className}>: ${said(one)}`);
  }
  const pages = document.querySelector("header.top nav");
  // On a phone they scroll, and fade where they go on.
  if (width > 640 && pages.scrollWidth > pages.clientWidth) found.push("pages are out of sight");
  for (const one of document.querySelectorAll("main .badge:not(.plain)")) {
    if (one.scrollWidth > one.clientWidth + 1) found.push(`cut: ${said(one)}`);
  }
  for (const row of document.querySelectorAll("main .list [role=row]")) {
    const edge = row.getBoundingClientRect().right;
    const cells = [...row.children].filter(isSeen).map((one) => [one, one.getBoundingClientRect()]);
    for (const [one, box] of cells) {
      if (box.right > edge + 1) found.push(`beyond its row: ${said(one)}`);
      const isCut = one.scrollWidth > one.clientWidth + 1;
      const mayBeCut = [one, ...one.querySelectorAll("*")].some((part) =>
        getComputedStyle(part).textOverflow === "ellipsis");
      if (isCut && !mayBeCut) found.push(`wider than its column: ${said(one)}`);
    }
  }
  for (const one of document.querySelectorAll("main .table")) {
    const box = one.closest(".scrolls, .scroll, .card");
    if (isSeen(one) && box && one.scrollWidth > box.clientWidth + 1) {
      found.push(`a table is ${one.scrollWidth - box.clientWidth} px wider than its box`);
    }
  }
  return [...new Set(found)];
}
"""


def misfits(page: Page) -> list[str]:
    """The elements that are outside of the window, cut off, or wider than their parent, at each of
    the widths.
    """
    before, found = page.viewport_size, list[str]()
    expect(page.get_by_role("main").locator("[aria-busy=true]")).to_have_count(0)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.evaluate("new Promise(requestAnimationFrame)")  # lists measure their rows again
        found += [f"at {width} px, {one}" for one in page.evaluate(MISFITS)]
    if before is not None:
        page.set_viewport_size(before)
    return found
