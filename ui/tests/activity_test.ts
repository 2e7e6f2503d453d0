import assert from "node:assert/strict";
import "./page.ts";
import { BUCKETS, countsOf, EMPTY, minuteAt, withCalls } from "../src/activity.ts";

const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);

Deno.test("calls stay in sight for a minute", () => {
  const minute = withCalls(withCalls(EMPTY, 3, 1000), 2, 1031);
  assert.deepEqual([1031, 1054, 1061, 1091, 5000].map((at) => sum(minuteAt(minute, at))), [
    5,
    5,
    2,
    0,
    0,
  ]);
  assert.equal(minuteAt(minute, 1031).length, BUCKETS);
});

Deno.test("an instance that is being cleaned is busy", () => {
  const event = {
    type: "pool",
    warming: 1,
    ready: 2,
    busy: 3,
    recycling: 4,
    terminating: 5,
    parked: 1,
    memory_mib: 280.5,
  };
  assert.deepEqual(countsOf(event), {
    busy_count: 7,
    ready_count: 2,
    warming_count: 1,
    parked_count: 1,
    memory_mib: 280.5,
  });
});
