// promise: N60
import assert from "node:assert/strict";
import "./page.ts";
import { placesOf, questionOf, reasonOf, stateOf, totalsOf, verbsOf } from "../src/fleet.ts";
import type { FunctionOnNode, Node } from "../src/wire.ts";

const ONE: Node = {
  name: "one",
  state: "ready",
  presence: "present",
  is_own: true,
  epoch: 3,
  version: "0.1.0",
  address: "10.0.0.1:8443",
  beat_age_seconds: 1,
  running_calls: 3,
  waiting_calls: 1,
  memory_free_mib: 512,
  ready_instances: 2,
  busy_instances: 2,
  lag_seconds: 0.4,
  sole_images: 0,
  function_count: 1,
  is_silent: false,
};
const on = (id: string, busy: number, ready: number, waiting = 0): FunctionOnNode => ({
  function_id: id,
  function_name: `name of ${id}`,
  tenant_id: "default",
  version: 1,
  ready_instances: ready,
  busy_instances: busy,
  waiting_calls: waiting,
});

Deno.test("a node's state is what it does, or why it does nothing", () => {
  const states = [
    ONE,
    { ...ONE, is_silent: true },
    { ...ONE, state: "draining" },
    { ...ONE, presence: "left" },
    { ...ONE, presence: "gone", beat_age_seconds: 99 },
    { ...ONE, presence: "gone", state: "removed" },
  ].map(stateOf);
  assert.deepEqual(states, ["ready", "silent", "draining", "left", "gone", "removed"]);
});

Deno.test("a node is told only what changes something", () => {
  assert.deepEqual(verbsOf(ONE), ["cordon", "drain", "remove"]);
  assert.deepEqual(verbsOf({ ...ONE, state: "cordoned" }), ["uncordon", "drain", "remove"]);
  assert.deepEqual(verbsOf({ ...ONE, state: "draining" }), ["uncordon", "remove"]);
  assert.deepEqual(verbsOf({ ...ONE, state: "removed" }), []);
  assert.deepEqual(verbsOf({ ...ONE, address: "" }), []); // a server without a fleet
});

Deno.test("what cannot be taken back is asked, with what it costs", () => {
  const two = { ...ONE, name: "two" };
  assert.equal(questionOf("cordon", ONE, [ONE, two]), null);
  assert.equal(questionOf("uncordon", ONE, [ONE, two]), null);
  const drained = questionOf("drain", ONE, [ONE, two])?.text ?? "";
  assert.match(drained, /the 3 calls that it has can end/);
  assert.doesNotMatch(drained, /No other node/);
  const last = questionOf("drain", ONE, [ONE, { ...two, state: "cordoned" }])?.text ?? "";
  assert.match(last, /No other node takes calls/);
  const removed = questionOf("remove", ONE, [ONE, two])?.text ?? "";
  assert.match(removed, /the 3 calls that it runs with it: drain it first/);
  const gone = questionOf("remove", { ...ONE, presence: "gone" }, [ONE, two])?.text ?? "";
  assert.equal(gone, "No server of this name starts in the fleet again.");
});

Deno.test("a drained node says when it can be stopped", () => {
  assert.match(reasonOf({ ...ONE, state: "draining" }), /running ones finish/);
  assert.match(reasonOf({ ...ONE, state: "draining", running_calls: 0 }), /can be stopped/);
  assert.equal(reasonOf(ONE), "");
});

Deno.test("the instances of a function are those of all nodes", () => {
  const nodes = [
    { ...ONE, functions: [on("a", 1, 0), on("b", 0, 1)] },
    { ...ONE, name: "two", functions: [on("b", 2, 1, 4)] },
    { ...ONE, name: "three", functions: null },
  ];
  const [first, second] = placesOf(nodes);
  assert.deepEqual([first?.of.function_id, first?.total, first?.waiting], ["b", 4, 4]);
  assert.deepEqual(first?.places, [
    { node: "one", busy: 0, ready: 1, waiting: 0 },
    { node: "two", busy: 2, ready: 1, waiting: 4 },
  ]);
  assert.deepEqual(second?.places.map((place) => place.node), ["one"]);
});

Deno.test("what a node said before it was silent or gone is in no sum", () => {
  const sums = totalsOf([
    ONE,
    { ...ONE, name: "two", presence: "gone" },
    { ...ONE, name: "three", is_silent: true },
  ]);
  assert.deepEqual(sums, {
    ready: 1,
    members: 3,
    running: 3,
    waiting: 1,
    instances: 4,
    free_mib: 512,
  });
});
