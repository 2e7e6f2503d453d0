import assert from "node:assert/strict";
import "./page.ts";
import { BUCKETS, EMPTY, minuteAt, withCalls } from "../src/activity.ts";

const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);

Deno.test("calls stay in sight for a minute", () => {
  const one = withCalls(withCalls(EMPTY, 3, 1000), 2, 1031);
  assert.deepEqual([1031, 1054, 1061, 1091, 5000].map((at) => sum(minuteAt(one, at))), [
    5,
    5,
    2,
    0,
    0,
  ]);
  assert.equal(minuteAt(one, 1031).length, BUCKETS);
});
