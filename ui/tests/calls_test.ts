import assert from "node:assert/strict";
import "./page.ts";
import { asResponse } from "../src/server_response.ts";
import { lastLines, nextOf, whyOf } from "../src/why.ts";
import { isHttpError } from "../src/parts/invocation/status.ts";
import { bars } from "../src/parts/invocation/attempts.ts";
import { Written } from "../src/parts/invocation/call.ts";
import { interval } from "../src/parts/resources/schedule.ts";
import { queryOf } from "../src/pages/invocations.ts";

const NONE = { function: "", status: "", start: "", source: "", slow: "", since: "" };

Deno.test("filters become the query of the route, and what is empty is left out", () => {
  assert.ok(Object.values(queryOf(NONE, 1000)).every((value) => value === null));
  const all = { ...NONE, function: "f1", status: "failed", start: "warm", slow: "20", since: "1h" };
  assert.deepEqual(queryOf(all, 10_000), {
    function_id: "f1",
    status: "failed",
    cold_start: false,
    source: null,
    min_duration_ms: 20,
    from: 6400,
  });
  assert.equal(queryOf({ ...NONE, slow: "-3" }, 0).min_duration_ms, null);
});

Deno.test("output in chunks is one text, also where a chunk ends within a character", () => {
  const written = new Written();
  written.add({ offset: 0, text: "a" });
  written.add({ offset: 1, base64: btoa("\u00e2\u0082") });
  written.add({ offset: 3, base64: btoa("\u00ac!") });
  assert.equal(written.text, "a€!");
});

Deno.test("a further attempt writes from its beginning", () => {
  const written = new Written();
  written.add({ offset: 0, text: "first" });
  written.add({ offset: 0, text: "second" });
  assert.equal(written.text, "second");
});

Deno.test("an interval is said in the unit that fits", () => {
  assert.deepEqual([1, 90, 900, 7200, 86_400].map(interval), [
    "1 s",
    "90 s",
    "15 min",
    "2 h",
    "1 d",
  ]);
});

Deno.test("attempts stand where they began, and the last one ends the line", () => {
  const usual = { status: "failed", cold_start: false, version: 1, execution_node_id: "n" };
  const all = [
    { ...usual, attempt: 1, started_at_ms: 1000, duration_ms: 100 },
    { ...usual, attempt: 2, started_at_ms: null, duration_ms: null },
    { ...usual, attempt: 3, started_at_ms: 1900, duration_ms: 100 },
  ];
  assert.deepEqual(bars(all), [
    { after: 0, from: 0, width: 10 },
    { after: null, from: 0, width: 0 },
    { after: 900, from: 90, width: 10 },
  ]);
});

Deno.test("why a call did not succeed is a sentence of its cause", () => {
  const of = { status: "timeout", duration_ms: 2_000, error_message: "deadline" };
  const late = { cause: "timeout", limit_seconds: 2 };
  assert.match(
    whyOf(of, late) ?? "",
    /^It ran for 2.00 s, into its deadline.* timeout is 2 s\.$/,
  );
  // Records of earlier versions have no cause.
  assert.match(whyOf(of, null) ?? "", /^It ran for 2.00 s, into its deadline/);
  assert.doesNotMatch(whyOf(of, null) ?? "", /timeout is/);
  const full = { cause: "oom", limit_bytes: 256 * 1024 * 1024 };
  assert.match(whyOf({ ...of, status: "oom" }, full) ?? "", /limit of 256 MiB and was killed/);
  const failed = { ...of, status: "failed" };
  const signalled = { cause: "signal", signal: 9 };
  assert.equal(whyOf(failed, signalled), "The handler was killed by signal 9 (SIGKILL).");
  // A handler's own exit code above 128 is not a signal, whatever the message says.
  const message = "the handler was killed by signal 9";
  const exited = { cause: "exit", code: 137, message: "gone" };
  assert.equal(whyOf({ ...failed, error_message: message }, exited), message);
  const none = { ...of, status: "error", error_message: "no sandbox" };
  const start = { cause: "start", phase: "placed", message: "no sandbox" };
  assert.equal(whyOf(none, start), "The platform could not run it: no sandbox.");
  const responded = { ...of, status: "success", error_message: null };
  const said = "The function responded with HTTP status 500, which counts as an error.";
  assert.equal(whyOf(responded, { cause: "http", status: 500 }), said);
  assert.equal(whyOf(responded, null), null);
  assert.deepEqual(
    [500, 404].map((http_status) => isHttpError({ status: "success", http_status })),
    [true, false],
  );
  assert.equal(lastLines("a\nb\nc\nd\n"), "b\nc\nd");
});

Deno.test("the output of an HTTP server is shown as its response", () => {
  const end = "\0".repeat(8);
  const head = { statusCode: 500, headers: { "content-type": "text/plain" }, cookies: ["a=1"] };
  const output = `${JSON.stringify(head)}${end}Internal Server Error`;
  assert.equal(
    asResponse(output, 500),
    "HTTP 500\ncontent-type: text/plain\nset-cookie: a=1\n\nInternal Server Error",
  );
  assert.equal(asResponse(`{"statusCode":204}${end}`, 204), "HTTP 204\n\n");
  // Output that only resembles a response is shown unchanged.
  assert.equal(asResponse(output, 200), output);
  assert.equal(asResponse(output, undefined), output);
  assert.equal(asResponse(`{"statusCode":${end}`, 500), `{"statusCode":${end}`);
  assert.equal(asResponse(`null${end}x`, 500), `null${end}x`);
});

Deno.test("what comes after an attempt is said of accepted work alone", () => {
  const attempts = [{ attempt: 1, status: "failed" }];
  const of = { status: "queued", source: "async", attempts, most: 3, due: "noon", isDead: false };
  assert.equal(nextOf(of), "After attempt 1 of 3 (failed) it is tried again, at noon.");
  assert.match(nextOf({ ...of, status: "failed", isDead: true }) ?? "", /dead letter/);
  assert.equal(
    nextOf({ ...of, status: "failed" }),
    "That was attempt 1 of 3: it is not tried again.",
  );
  assert.equal(nextOf({ ...of, source: "sync" }), null);
  assert.equal(nextOf({ ...of, status: "success" }), null);
});
