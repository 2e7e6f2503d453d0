import assert from "node:assert/strict";
import {
  bodyOf,
  draftOf,
  elsewhereSaid,
  namesOf,
  newDraft,
  ruleSaid,
  sameAgain,
  shares,
  targetSaid,
  targetsOf,
} from "../src/aliases.ts";
import type { Alias } from "../src/wire.ts";

const ALONE: Alias = { name: "live", version: 2, also: null, rollback_on: null, updated_at: 1 };
const SPLIT: Alias = {
  name: "next",
  version: 1,
  also: { version: 2, weight: 0.125 },
  rollback_on: { error_rate: 0.05, within_s: 60 },
  updated_at: 1,
};

Deno.test("an alias says which version gets how many of its calls", () => {
  assert.deepEqual(shares(ALONE), [{ version: 2, percent: 100 }]);
  assert.deepEqual(shares(SPLIT), [{ version: 1, percent: 87.5 }, { version: 2, percent: 12.5 }]);
});

Deno.test("a version is told which aliases name it", () => {
  assert.deepEqual(namesOf([ALONE, SPLIT], 2), ["live", "next 12.5 %"]);
  assert.deepEqual(namesOf([ALONE, SPLIT], 1), ["next 87.5 %"]);
  assert.deepEqual(namesOf([ALONE, SPLIT], 3), []);
});

Deno.test("a call may run on what serves, on an alias, or on another version", () => {
  assert.deepEqual(targetsOf([SPLIT], [3, 2, 1], 2), [
    ["", "what serves: v2"],
    ["alias=next", "alias next: v1 87.5 %, v2 12.5 %"],
    ["version=3", "version 3"],
    ["version=1", "version 1"],
  ]);
  assert.equal(targetSaid("alias=next"), "alias next");
  assert.equal(targetSaid(""), "what serves");
  const byDefault = { ...SPLIT, default: true };
  assert.equal(targetsOf([byDefault], [2, 1], 2)[0]?.[1], "what serves: v1 87.5 %, v2 12.5 %");
});

Deno.test("what calls run on is said where it is not the current version", () => {
  const cases: [number, Alias | undefined, string][] = [
    [2, undefined, ""],
    [2, ALONE, ""],
    [3, ALONE, "v2 (live)"],
    [2, SPLIT, "v1 87.5 %, v2 12.5 % (next)"],
  ];
  for (const [current_version, default_alias, said] of cases) {
    assert.equal(elsewhereSaid({ current_version, default_alias }), said);
  }
});

Deno.test("a draft sends a second version and its rule only where there is one", () => {
  const draft = newDraft(3);
  assert.deepEqual(bodyOf(draft), { version: 3, also: null, rollback_on: null });
  const watched = { error_rate: 0.05, p99_ms: null, within_s: 300 };
  assert.deepEqual(bodyOf({ ...draft, other: 4 }), {
    version: 3,
    also: { version: 4, weight: 0.1 },
    rollback_on: watched,
  });
  const rule = { ...watched, error_rate: null };
  assert.equal(bodyOf({ ...draft, other: 4, rule }).rollback_on, null);
});

Deno.test("what is changed of an alias goes out from what it was", () => {
  assert.deepEqual(bodyOf(draftOf(SPLIT)), {
    version: 1,
    also: { version: 2, weight: 0.125 },
    rollback_on: { error_rate: 0.05, p99_ms: null, within_s: 60 },
  });
  assert.deepEqual(sameAgain(SPLIT), {
    version: 1,
    also: { version: 2, weight: 0.125 },
    rollback_on: { error_rate: 0.05, within_s: 60 },
    default: false,
  });
  // An alias without a rollback rule has none after its weight was changed.
  assert.equal(bodyOf(draftOf({ ...SPLIT, rollback_on: null })).rollback_on, null);
});

Deno.test("a rule is said in words", () => {
  assert.equal(
    ruleSaid({ error_rate: 0.05, p99_ms: 500 }),
    "taken back if more than 5 % of its calls fail, or its p99 is above 500 ms; watched for 300 s",
  );
});
