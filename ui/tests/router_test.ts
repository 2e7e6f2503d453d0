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
  const places = new Set(PAGES.map((one) => one.nav).filter(Boolean));
  for (const one of PAGES) assert.ok(places.has(one.nav ?? one.under), one.pattern);
  assert.equal(new Set(PAGES.map((one) => one.pattern)).size, PAGES.length);
});

Deno.test("the functions are also where their address without an id leads", () =>
  assert.equal(PAGES.find((one) => match(one.pattern, ["functions"]))?.title, "Functions"));

Deno.test("a page with a fixed word comes before one that takes any", () => {
  for (const [n, one] of PAGES.entries()) {
    const earlier = PAGES.slice(0, n).find((other) => match(other.pattern, one.pattern.split("/")));
    assert.equal(earlier, undefined, `${one.pattern} is hidden by ${earlier?.pattern}`);
  }
});
