import assert from "node:assert/strict";
import { toReveal } from "../src/parts/controls/reveal.ts";

Deno.test("what comes is scrolled into sight, its beginning where not all of it fits", () => {
  const sight = { top: 50, bottom: 800 };
  assert.equal(toReveal({ top: 100, bottom: 700 }, sight), 0);
  assert.equal(toReveal({ top: 700, bottom: 1000 }, sight), 200);
  assert.equal(toReveal({ top: 900, bottom: 3000 }, sight), 850);
  assert.equal(toReveal({ top: -20, bottom: 300 }, sight), -70);
});
