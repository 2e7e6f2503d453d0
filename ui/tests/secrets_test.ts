// Uses the cases of tests/unit/test_masking.py: the command line has the same rules.
import assert from "node:assert/strict";
import { looksSecret, masked } from "../src/secrets.ts";
import cases from "./masking_cases.json" with { type: "json" };

Deno.test("what looks like a secret is what the command line takes for one", () => {
  for (const [name, value, isSecret] of cases as [string, string, boolean][]) {
    assert.equal(looksSecret(name, value), isSecret, `${name}=${value}`);
  }
});

Deno.test("the values of secrets alone are masked", () => {
  assert.deepEqual(masked({ API_TOKEN: "x", MODE: "fast" }), { API_TOKEN: "***", MODE: "fast" });
});
