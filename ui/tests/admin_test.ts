import assert from "node:assert/strict";
import "./page.ts";
import { madeAt, placeOf, queryOf } from "../src/audit.ts";
import { kindOf, memoryParts, readable, worstFirst } from "../src/node.ts";
import { scopesBelow, stateOf } from "../src/pages/keys.ts";
import { labelled } from "../src/parts/charts/bars.ts";
import { amount } from "../src/parts/text/format.ts";
import { barsOf, csvOf, nameOf, shareOf, spanOf } from "../src/usage.ts";
import type { Instance, InstanceList, Key, UsageRow } from "../src/wire.ts";

const HOUR = 3600;
const DAY = 24 * HOUR;
const NOON = 20_000 * DAY + 12 * HOUR + 90;
const ROW: UsageRow = {
  start: NOON - 90,
  function_id: "f1",
  function_name: "hello",
  calls: 5,
  errors: 2,
  statuses: { success: 3, failed: 2 },
  cold_starts: 1,
  gb_seconds: 0.25,
  cpu_seconds: 1.5,
  egress_refused: 0,
  queued: 2,
};

Deno.test("sizes and control groups are said as a reader knows them", () => {
  assert.equal(readable("74862 MiB free"), "73.1 GiB free");
  assert.equal(readable("100 MiB free"), "100 MiB free");
  assert.equal(
    readable("cgroup hybrid, swap included"),
    "control groups version 1 beside version 2, swap included",
  );
});

Deno.test("a day ends with the hour that it is now, a month with the day of UTC", () => {
  const day = spanOf("day", NOON);
  assert.deepEqual([day.to - day.from, day.to - NOON, day.step], [DAY, HOUR - 90, "hour"]);
  assert.equal(spanOf("week", NOON).from, day.to - 7 * DAY);
  const month = spanOf("month", NOON);
  assert.deepEqual([month.from % DAY, month.to, month.step], [0, 20_001 * DAY, "day"]);
});

Deno.test("there is a bar for every hour, also for those without calls", () => {
  const { at, rows } = barsOf([ROW], spanOf("day", NOON));
  assert.equal(at.length, 24);
  assert.deepEqual(rows.map((row) => row?.calls ?? 0).slice(-3), [0, 0, 5]);
});

Deno.test("functions without a name are named", () => {
  assert.equal(nameOf({ ...ROW, function_name: null }), "deleted function");
  assert.match(nameOf({ ...ROW, function_name: null, function_id: null }), /no longer told apart/);
});

Deno.test("the file has a row for each function, and quotes what needs it", () => {
  const span = { from: 0, to: HOUR, step: "hour" as const, step_s: HOUR };
  const lines = csvOf([ROW, { ...ROW, function_name: 'a "b", c', function_id: null }], span)
    .split("\r\n");
  assert.equal(
    lines[0],
    "from,to,function_id,function_name,calls,errors,cold_starts,queued,gb_seconds,cpu_seconds,egress_refused",
  );
  assert.equal(
    lines[1],
    "1970-01-01T00:00:00.000Z,1970-01-01T01:00:00.000Z,f1,hello,5,2,1,2,0.25,1.5,0",
  );
  assert.match(lines[2] ?? "", /Z,,"a ""b"", c",5/);
  assert.deepEqual(lines.slice(3), [""]);
});

Deno.test("a share of a limit is known where both are", () => {
  const limit = { name: "", used: 3, limit: 12, said: String };
  assert.equal(shareOf(limit), 0.25);
  assert.equal(shareOf({ ...limit, used: 30 }), 1);
  assert.equal(shareOf({ ...limit, used: null }), null);
  assert.equal(shareOf({ ...limit, limit: null }), null);
  assert.equal(shareOf({ ...limit, used: 0, limit: 0 }), 1);
});

Deno.test("amounts have three digits that say something", () => {
  assert.deepEqual([0, 0.0001, 0.0734, 3.14159, 41.66, 1234.5].map(amount), [
    ...["0", "< 0.001", "0.073", "3.14", "41.7", "1,235"],
  ]);
});

Deno.test("filters of the audit log become the query of the route", () => {
  const none = { action: "", who: "", object: "", since: "" };
  assert.ok(Object.values(queryOf(none, 1)).every((value) => value === null));
  const wanted = { action: "key", who: "k1", object: "o1", since: "1h" };
  assert.deepEqual(queryOf(wanted, 10_000.5), {
    action: "key",
    credential: "k1",
    object_id: "o1",
    from: 6400,
  });
  assert.equal(queryOf({ ...none, since: "nonsense" }, 1).from, null);
});

Deno.test("the time of an entry is in its id", () => {
  assert.equal(madeAt("01999999-0000-7000-8000-000000000001"), 1_759_218_565);
  assert.equal(madeAt("<b>"), null);
});

Deno.test("an object leads to its page, if it has one", () => {
  const known = new Map([["f1", {}]]);
  assert.equal(placeOf("function.update", "f1", known), "#/functions/f1");
  assert.equal(placeOf("invocation.cancel", "f1", known), "#/functions/f1");
  assert.equal(placeOf("url.set", "f1", known), "#/functions/f1");
  assert.equal(placeOf("function.delete", "gone", known), null);
  assert.equal(placeOf("runtime.add", "a/b", known), "#/runtimes/a%2Fb");
  assert.equal(placeOf("runtime.remove", "shop", known), null);
  assert.equal(placeOf("schedule.run", "nightly", known), "#/schedules/nightly");
  assert.equal(placeOf("key.revoke", "k1", known), "#/keys?q=k1");
  assert.equal(placeOf("image.upload", "sha256:1", known), null);
  assert.equal(placeOf("function.create", null, known), null);
});

const INSTANCE: Instance = {
  function_id: "f1",
  function_name: "hello",
  tenant_id: "default",
  number: 1,
  version: 1,
  state: "ready",
  memory_mib: 10,
  age_seconds: 1,
  state_seconds: 1,
  start_reason: "first",
  node_id: "node-1",
};
const listOf = (instances: Instance[]): InstanceList => ({
  instances,
  total_count: instances.length,
  prewarmed_count: 2,
  waiting_calls: 0,
  queued_calls: 0,
  memory: { budget_mib: 1000, held_mib: 10 * instances.length + 20, prewarmed_mib: 20 },
});

Deno.test("the memory is drawn instance by instance, busy first, and then the stock", () => {
  const parts = memoryParts(listOf([INSTANCE, { ...INSTANCE, state: "busy", memory_mib: 10 }]));
  assert.deepEqual(parts.map((part) => [part.kind, part.size]), [
    ...[["busy", 10], ["ready", 10], ["stock", 20]],
  ]);
});

Deno.test("many instances are drawn together, and those that are not listed as others", () => {
  const list = listOf(Array<Instance>(500).fill(INSTANCE));
  const parts = memoryParts({ ...list, memory: { ...list.memory, held_mib: 6000 } });
  assert.deepEqual(
    parts.filter((part) => part.size > 0).map((part) => [part.kind, part.size]),
    [["ready", 5000], ["stock", 20], ["other", 980]],
  );
});

Deno.test("what comes or goes is neither busy nor ready", () => {
  assert.deepEqual(["busy", "parked", "recycling", "warming"].map(kindOf), [
    ...["busy", "ready", "warming", "warming"],
  ]);
});

Deno.test("what the doctor finds wrong comes first", () => {
  const of = (name: string, level: string) => ({ name, level, sentence: "", advice: null });
  const sorted = worstFirst([of("a", "ok"), of("b", "warn"), of("c", "NO"), of("d", "warn")]);
  assert.deepEqual(sorted.map((each) => each.name), ["c", "b", "d", "a"]);
});

Deno.test("a key is valid until it is revoked or over, and gives no more than its maker has", () => {
  const key: Key = {
    id: "",
    tenant_id: "",
    scope: "read",
    prefix: "",
    created_at: 0,
    expires_at: 10,
    revoked_at: null,
    label: null,
  };
  assert.deepEqual([stateOf(key, 9), stateOf(key, 10)], ["valid", "expired"]);
  assert.equal(stateOf({ ...key, revoked_at: 5 }, 9), "revoked");
  assert.equal(stateOf({ ...key, expires_at: null }, 1e10), "valid");
  assert.deepEqual(scopesBelow("admin").map(([scope]) => scope), [
    "read",
    "invoke",
    "write",
    "admin",
  ]);
  assert.deepEqual(scopesBelow(null), []);
});

Deno.test("bars have their time below them where there is room", () => {
  assert.deepEqual(labelled(24, 1728, () => true).length, 24);
  assert.deepEqual(labelled(24, 216, () => true), [0, 8, 16]);
  assert.deepEqual(labelled(7, 1000, (n) => n % 3 === 0), [0, 3, 6]);
});
