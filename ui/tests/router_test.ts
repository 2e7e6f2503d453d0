import assert from "node:assert/strict";
import "./page.ts";
import { PAGES } from "../src/pages.ts";
import { href, match, parse } from "../src/router.ts";

Deno.test("a link leads back to what it was made of", () => {
  const { parts, query } = parse(
    href(["functions", "a/b ü"], { q: "x&y", state: "", order: null }),
  );
  assert.deepEqual(parts, ["functions", "a/b ü"]);
  assert.deepEqual([...query], [["q", "x&y"]]);
});

Deno.test("a broken address is no error", () =>
  assert.deepEqual(parse("#/%E0%A4").parts, ["%E0%A4"]));

Deno.test("a pattern finds its parameters", () => {
  assert.deepEqual(match("functions/:id", ["functions", "7"]), { id: "7" });
  assert.equal(match("functions/:id", ["functions"]), null);
  assert.deepEqual(match("", []), {});
});

Deno.test("every page belongs to a place in the navigation, and no address is given twice", () => {
  const places = new Set(PAGES.map((page) => page.nav).filter(Boolean));
  for (const page of PAGES) assert.ok(places.has(page.nav ?? page.under), page.pattern);
  assert.equal(new Set(PAGES.map((page) => page.pattern)).size, PAGES.length);
});

Deno.test("the functions are also where their address without an id leads", () =>
  assert.equal(PAGES.find((page) => match(page.pattern, ["functions"]))?.title, "Functions"));

Deno.test("a page with a fixed word comes before one that takes any", () => {
  for (const [n, page] of PAGES.entries()) {
    const earlier = PAGES.slice(0, n).find((other) =>
      match(other.pattern, page.pattern.split("/"))
    );
    assert.equal(earlier, undefined, `${page.pattern} is hidden by ${earlier?.pattern}`);
  }
});
