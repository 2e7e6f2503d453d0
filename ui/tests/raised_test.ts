import assert from "node:assert/strict";
import { answered } from "./page.ts";
import { endOf, raisedIn, raisedOf } from "../src/raised.ts";

const HEAD = "Traceback (most recent call last):\n";
const frame = (file: string, line: number) =>
  `  File "${file}", line ${line}, in f\n    f()\n    ^^^\n`;

Deno.test("what Python raised is the last traceback's, with the handler's own line", () => {
  const log = `begin\n${HEAD}${
    frame("/app/old.py", 1)
  }KeyError: 'old'\n\nDuring another:\n\n${HEAD}${frame("/app/main.py", 5)}${
    frame("/usr/lib/python3/json/decoder.py", 355)
  }json.JSONDecodeError: Expecting value\nmore\n`;
  assert.equal(raisedIn(log), "json.JSONDecodeError: Expecting value (main.py, line 5)");
  assert.equal(
    raisedIn(`${HEAD}${frame("/usr/x.py", 7)}KeyboardInterrupt\n`),
    "KeyboardInterrupt (x.py, line 7)",
  );
  assert.equal(raisedIn(`${HEAD}ValueError: no frame`), "ValueError: no frame");
});

Deno.test("what Node threw is the line above its stack", () => {
  const log = "begin\nTypeError: x is not a function\n    at inner (file:///app/main.mjs:3:9)\n" +
    "    at handler (file:///app/main.mjs:7:1)\n";
  assert.equal(raisedIn(log), "TypeError: x is not a function (main.mjs, line 3)");
  const more = "Error: no\n    at handler (file:///app/main.mjs:2:9) {\n  code: 1\n}\n";
  assert.equal(raisedIn(more), "Error: no (main.mjs, line 2)");
  assert.equal(raisedIn("said\n\n    at lunch:12\n"), null);
});

Deno.test("of any other end nothing is made up, and what is long is cut", () => {
  for (const log of ["", "no\n", HEAD, `${HEAD}  not this\n`, "Error: told\n"]) {
    assert.equal(raisedIn(log), null, log);
  }
  const long = raisedIn(
    `${HEAD}${frame(`/app/${"f".repeat(300)}.py`, 1)}E: ${"x".repeat(9_000)}\n`,
  );
  assert.ok((long ?? "").length < 270, long ?? "");
  assert.equal(raisedIn(`    at ${"a".repeat(1 << 20)}`), null); // at once
  assert.match(long ?? "", /^E: x+… \(f+…, line 1\)$/);
});

Deno.test("only a message that is an exit code gives way to what was raised", () => {
  const stderr = `${HEAD}E: 1\n`;
  assert.equal(endOf({ error_message: "the handler exited with code 1", stderr }), "E: 1");
  assert.equal(
    endOf({ error_message: "the handler exited with code 1", stderr: "" }),
    "the handler exited with code 1",
  );
  assert.equal(endOf({ error_message: "it was cancelled", stderr }), "it was cancelled");
});

Deno.test("a list asks once for the end of what a call wrote", async () => {
  const sent = await answered([[200, 1]], async () => {
    const path = "api/functions/F/invocations/raised";
    assert.equal(await raisedOf(path), await raisedOf(path));
    assert.equal(await raisedOf("api/functions/F/invocations/gone"), null);
  });
  assert.deepEqual(sent.map(({ path }) => path), [
    "api/functions/F/invocations/raised/output?stream=stderr",
    "api/functions/F/invocations/gone/output?stream=stderr",
  ]);
  assert.equal(sent[0]?.headers.get("range"), "bytes=-16384");
});
