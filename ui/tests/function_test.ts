// promise: A75, A81
import assert from "node:assert/strict";
import { renderToString } from "preact-render-to-string";
import { answered } from "./page.ts";
import { differences, summary } from "../src/comparing.ts";
import { changesOf, described, fieldOf } from "../src/fields.ts";
import { html } from "../src/html.ts";
import { aboutEmpty, Described, taken, wordsOf } from "../src/parts/controls/described.ts";
import { dashAt, words } from "../src/parts/charts/chart.ts";
import { withImages } from "../src/saving.ts";
import { may } from "../src/scope.ts";
import { filled, queryOf, sums } from "../src/series.ts";
import { callLine, serverLine } from "../src/command.ts";
import { newSecret, testDelivery } from "../src/signing.ts";
import { who } from "../src/store.ts";
import { aboutPayload, cancel, prepare, start, trialOf, withPayload } from "../src/trying.ts";
import { HTTP_ERRORS, type Series, STATUSES, type Version, type Whoami } from "../src/wire.ts";
import { comparedWith } from "../src/pages/function/versions.ts";
import { cameTo, isError, isFailing } from "../src/standing.ts";

const version: Version = {
  ...{ id: "v", function_id: "f", version: 1, handler: "echo", runtime: "shell" },
  ...{ environment: { A: "1", B: "1" }, created_at: 0, is_active: true, description: null },
  ...{ working_directory: null, memory_limit_mb: 256, cpu_limit_percent: 100 },
  ...{ timeout_seconds: 30, cleanup_on_exit: true, image_digest: "host:1" },
};
const point = { errors: 1, statuses: { failed: 1 }, cold_starts: 1, p50_ms: 2, p99_ms: 9 };
const series: Series = {
  ...{ function_id: "f", start: 120, end: 300, step_seconds: 60 },
  points: [{ start: 180, calls: 4, ...point }],
};

Deno.test("versions differ in what is told of them, of variables never the values", () => {
  const after = { ...version, memory_limit_mb: 512, environment: { B: "2", C: "secret" } };
  assert.deepEqual(differences(version, after), [
    { name: "Memory", before: "256 MiB", after: "512 MiB" },
    { name: "Variable A", before: "set", after: null },
    { name: "Variable B", before: "set", after: "another value" },
    { name: "Variable C", before: null, after: "set" },
  ]);
  assert.equal(summary(version, { ...version, handler: "date" }), "Handler");
  assert.equal(summary(version, version), "nothing");
  const other = { ...version, image_digest: "sha256:2", memory_limit_mb: 512 };
  assert.equal(summary(version, other), "Code, Memory");
  const files = ["a.py", "b.py", "c.py", "d.py", "e.py"];
  assert.equal(summary(version, other, files), "Code (a.py, b.py, c.py, 2 more), Memory");
});

Deno.test("only what was changed is sent", () => {
  const before = { a: 1, b: { X: "1" } as Record<string, string>, c: null };
  assert.deepEqual(changesOf(before, { a: 1, b: { X: "1" }, c: null }), {});
  assert.deepEqual(changesOf(before, { a: 2, b: { Y: "1" }, c: null }), { a: 2, b: { Y: "1" } });
});

Deno.test("a form speaks of what is left empty, where the API speaks of null", () => {
  const field = { about: "the methods", whenNull: "any", isNullable: true };
  assert.equal(aboutEmpty(field), "the methods; empty: any");
  assert.equal(aboutEmpty({ ...field, whenNull: "" }), "the methods; may be empty");
  assert.equal(aboutEmpty({ ...field, isNullable: false }), "the methods");
});

Deno.test("a field has the server's words and bounds", () => {
  const number = { type: "integer", minimum: 1, maximum: 9, description: "how many" };
  described.value = {
    components: {
      schemas: {
        Some: { properties: { most: { anyOf: [number, { type: "null", description: "all" }] } } },
      },
    },
  };
  const field = fieldOf(described.value, "Some", "most");
  assert.deepEqual([field.about, field.maximum, field.isNullable], ["how many", 9, true]);
  const shown = renderToString(
    html`<${Described} shape="Some" name="most" label="Most" value=${3} onValue=${() => {}} />`,
  );
  assert.match(shown, /max="9"/);
  assert.match(shown, /how many; empty: all/);
  assert.deepEqual([taken("", field), taken("7", field)], [null, 7]);
  assert.deepEqual(wordsOf(" GET,  POST "), ["GET", "POST"]);
  described.value = null;
});

Deno.test("a series has a point for every step, and no time where no call ended", () => {
  const chart = filled(series);
  assert.deepEqual([chart.at, chart.calls], [[120, 180, 240], [0, 4, 0]]);
  assert.deepEqual(chart.p99, [null, 9, null]);
  assert.deepEqual(sums(series), { calls: 4, errors: 1, cold: 1, slowest: 9 });
  assert.deepEqual(queryOf("hour", 7230), { from: 3660, to: 7260, step: 60 });
  const days = { ...chart, at: [0, 172_800, 345_600] };
  assert.match(words(days, 1), /Sat.* 3.*: 4 calls/);
});

Deno.test("the dash of a single value stays within the axes", () => {
  assert.deepEqual([dashAt(100, 400), dashAt(57, 400), dashAt(386, 400)], [
    [93, 107],
    [56, 70],
    [374, 388],
  ]);
});

Deno.test("a payload is kept once, newest first, and not without bound", () => {
  assert.deepEqual(withPayload(["a", "b"], "b"), ["b", "a"]);
  const many = Array.from({ length: 40 }, (_, n) => `${n}`);
  assert.equal(withPayload(many, "new").length, 20);
  assert.deepEqual(withPayload(["x".repeat(150_000)], "y".repeat(150_000)).length, 1);
});

Deno.test("broken JSON is noticed, other text is not", () => {
  assert.match(aboutPayload('{"a":'), /no valid JSON/);
  assert.deepEqual(["[1]", "plain", ""].map(aboutPayload), ["", "", ""]);
});

Deno.test("a scope includes those below it; without a key nothing is offered", () => {
  const as = (scope: string | null) => {
    who.value = scope === null ? null : { scope } as Whoami;
    return [may("invoke"), may("write")];
  };
  assert.deepEqual([as("read"), as("invoke"), as("operator"), as(null)], [
    [false, false],
    [true, false],
    [true, true],
    [false, false],
  ]);
  who.value = null;
});

Deno.test("other files leave a runtime as it was besides", () => {
  const own = { name: "r", kind: "custom", command: ["/run"], environment: { A: "1" } };
  const rules = { isolation: "gvisor", network: "egress", writable_paths: ["/x"], shared: false };
  const base = { base_image: "2", interpreter: "/usr/bin/python3" };
  const digests = { image: "1", image_digest: "sha256:1+base:2" };
  const limits = { tmp_limit_mb: 64, process_limit: null, file_limit_mb: 9, open_files_limit: 99 };
  const before = { ...own, ...rules, ...limits, ...base, ...digests, id: "1" };
  const made = withImages({ ...before, built_in: false, created_at: 0 }, { image: "sha256:2" });
  assert.deepEqual(made, {
    ...own,
    image: "sha256:2",
    base_image: "2",
    isolation: "gvisor",
    network: "egress",
    writable_paths: ["/x"],
    ...limits,
  });
});

const record = { invocation_id: "i", stdout: "hello", stderr: "", status: "success" };
const wanted = { payload: "p", variables: [["A", "1"], ["", ""]] as const };

Deno.test("a call that is waited for sends payload and variables, and has its record", async () => {
  const trial = trialOf("sync");
  trial.mode.value = "sync";
  trial.payload.value = wanted.payload;
  trial.variables.value = wanted.variables;
  const sent = await answered(
    [[200, record], [200, { cold_start: false }]],
    () => start("sync", trial),
  );
  assert.equal(sent[0]?.body, '{"payload":"p","environment":{"A":"1"}}');
  assert.equal(sent[0]?.headers.get("x-on-disconnect"), "cancel");
  assert.deepEqual([trial.run.value?.isOver, trial.run.value?.stdout], [true, "hello"]);
});

Deno.test("what this tab sent with a call is there to call again, and nothing else", () => {
  const trial = trialOf("sync"); // the test above started a call with it
  trial.payload.value = "";
  prepare("sync", "i");
  assert.equal(trial.payload.value, "p");
  prepare("sync", "of somebody else");
  assert.equal(trial.payload.value, "");
});

Deno.test("what the server refuses is told in its words", async () => {
  const trial = trialOf("refused");
  await answered(
    [[409, { error: "it is paused", error_code: "FUNCTION_NOT_ACTIVE" }]],
    () => start("refused", trial),
  );
  assert.equal(trial.run.value?.problem?.message, "it is paused");
});

Deno.test("queued work that is cancelled is cancelled there", async () => {
  const trial = trialOf("queued");
  trial.mode.value = "async";
  const queued = { ...record, status: "queued", ended_at: null };
  const sent = await answered(
    [[202, queued], [200, { ...queued, ended_at: 1, status: "cancelled" }], [200, {}], [200, {}]],
    async () => {
      const whole = start("queued", trial);
      while (trial.run.peek()?.id !== "i") await new Promise((done) => setTimeout(done));
      await cancel("queued", trial);
      await whole;
    },
  );
  assert.equal(sent[0]?.path, "api/functions/queued/invoke?mode=async");
  assert.equal(trial.run.value?.record?.status, "cancelled");
});

Deno.test("a secret is 32 random bytes as its scheme writes them", () => {
  assert.match(newSecret("github"), /^[0-9a-f]{64}$/);
  assert.match(newSecret("stripe"), /^whsec_[0-9a-f]{64}$/);
  const standard = newSecret("standard");
  assert.match(standard, /^whsec_/);
  assert.equal(atob(standard.slice(6)).length, 32);
  assert.notEqual(newSecret("github"), newSecret("github"));
});

Deno.test("a test delivery quotes the secret for the shell, and there is none for what is no key", () => {
  const line = testDelivery("github", "it's $(date)", "http://x.test/fn/a") ?? "";
  assert.ok(line.includes(`-hmac 'it'\\''s $(date)'`), line);
  assert.equal(testDelivery("standard", "whsec_*", "http://x.test/fn/a"), null);
});

Deno.test("a call's line quotes what is sent, and names the key's variable, not the key", () => {
  const line = callLine("f1", { payload: "it's $(date)" }, { hasKey: true, isQueued: true });
  assert.ok(line.includes(`-d '{"payload":"it'\\''s $(date)"}'`), line);
  assert.ok(line.includes('"X-Api-Key: $QUILT_API_KEY"'), line);
  assert.ok(line.includes("respond-async"), line);
  const plain = callLine("f1", { payload: null }, { hasKey: false, isQueued: false });
  assert.ok(!/Key|respond-async/.test(plain), plain);
});

Deno.test("a terminal is told where the server is, unless it is where quiltfn looks", () => {
  const page = document as { baseURI: string };
  const before = page.baseURI;
  try {
    assert.equal(serverLine(), "export QUILT_BASE_URL='http://proxy.test/q'");
    for (const host of ["127.0.0.1:8080", "localhost:8080"]) {
      page.baseURI = `http://${host}/ui/`;
      assert.equal(serverLine(), null);
    }
  } finally {
    page.baseURI = before;
  }
});

Deno.test("an active function fails if all of the last hour failed, or ever, where that was quiet", () => {
  const of = (state: string, invocation_count: number, error_count: number) => ({
    ...{ state, invocation_count, error_count },
  });
  assert.equal(isFailing(of("active", 0, 0), null), false);
  assert.equal(isFailing(of("active", 9, 9), null), true);
  assert.equal(isFailing(of("active", 9, 8), null), false);
  assert.equal(isFailing(of("active", 9, 4), { calls: 2, errors: 2 }), true);
  assert.equal(isFailing(of("active", 9, 9), { calls: 2, errors: 1 }), false);
  assert.equal(isFailing(of("active", 9, 9), { calls: 0, errors: 0 }), true);
  assert.equal(isFailing(of("paused", 9, 9), null), false);
});

Deno.test("what the server counts as an error is the last error", () => {
  const errors = STATUSES.filter((status) =>
    isError({ status, error_message: null, http_status: null })
  );
  assert.deepEqual(errors, ["failed", "timeout", "oom", "cancelled", "error", "interrupted"]);
  const response = (http_status: number) =>
    isError({ status: "success", error_message: null, http_status });
  assert.deepEqual([response(HTTP_ERRORS - 1), response(HTTP_ERRORS)], [false, true]);
});

Deno.test("a version is compared with the current one, and that one with its neighbour", () => {
  const all = [4, 3, 2, 1].map((version) => ({ version }));
  const of = (current: number) => all.map((_, n) => comparedWith(all, n, current));
  assert.deepEqual(of(4), [3, 4, 4, 4]);
  assert.deepEqual(of(2), [2, 2, 1, 2]);
  assert.deepEqual(of(1), [1, 1, 1, 2]);
  assert.equal(comparedWith([{ version: 1 }], 0, 1), 1);
});

Deno.test("an invocation that was tried several times says so", () => {
  const succeeded = { status: "success", error_message: null, http_status: null, attempt: 1 };
  assert.equal(cameTo(succeeded), "success");
  assert.equal(cameTo({ ...succeeded, attempt: 4 }), "success, attempt 4");
  const failed = { ...succeeded, status: "failed", error_message: "card declined" };
  assert.equal(cameTo(failed), "card declined");
  assert.equal(cameTo({ ...failed, attempt: 3 }), "attempt 3: card declined");
  assert.equal(
    cameTo({ ...failed, status: "queued", attempt: 2 }),
    "queued, attempt 2: card declined",
  );
});
