import assert from "node:assert/strict";
import { signal } from "@preact/signals";
import { renderToString } from "preact-render-to-string";
import "./page.ts";
import { html } from "../src/html.ts";
import { Choice } from "../src/parts/controls/choice.ts";
import { asked, confirm } from "../src/parts/controls/confirm.ts";
import { runs, words } from "../src/parts/charts/chart.ts";
import { sidesOf } from "../src/parts/controls/edges.ts";
import { windowOf } from "../src/parts/lists/list.ts";
import { Notice } from "../src/parts/lists/notice.ts";
import { Output } from "../src/parts/invocation/output.ts";
import { PoolBar } from "../src/parts/charts/pool.ts";
import { marks, roundUp } from "../src/parts/charts/scale.ts";
import { fits } from "../src/parts/controls/search.ts";
import { SETTLES_MS } from "../src/parts/controls/settling.ts";
import { Status } from "../src/parts/invocation/status.ts";
import { Steps } from "../src/parts/charts/steps.ts";
import { Ago } from "../src/parts/text/time.ts";
import { dismiss, takeBack, type Toast, toast, toasts } from "../src/parts/controls/toast.ts";
import { coldSentence, lanes, ranSentence, Waterfall } from "../src/parts/charts/waterfall.ts";
import { Refused } from "../src/api.ts";
import type { ErrorDetails } from "../src/wire.ts";
import { fieldIn, saidOf } from "../src/parts/controls/failing.ts";
import { route } from "../src/router.ts";

const some = (text: string, pattern: RegExp) => text.match(new RegExp(pattern, "g"))?.length ?? 0;

Deno.test("a status has its word and a glyph, also where the word is only read aloud", () => {
  for (const isQuiet of [false, true]) {
    const text = renderToString(html`<${Status} of="failed" isQuiet=${isQuiet} />`);
    assert.match(text, /failed<\/span>/);
    assert.match(text, /<path d="M4 4l8 8/);
    assert.equal(text.includes("hidden-visually"), isQuiet);
  }
});

Deno.test("a success whose HTTP status counts as an error has no check", () => {
  for (const [http, word] of [[500, "HTTP 500"], [404, "success"], [null, "success"]]) {
    const text = renderToString(html`<${Status} of="success" http=${http} />`);
    assert.match(text, new RegExp(`${word}</span>`));
    assert.equal(text.includes("status failed"), http === 500);
  }
});

Deno.test("a pool has a cell for each instance and says it in words", () => {
  const counts = { busy_count: 2, ready_count: 1, warming_count: 0, parked_count: 0 };
  const text = renderToString(html`<${PoolBar} counts=${counts} most=${5} />`);
  assert.deepEqual([some(text, /<i /), some(text, /class="busy"/)], [5, 2]);
  assert.match(text, /aria-label="2 busy, 1 ready, 0 warming, 0 parked, of 5 at most"/);
});

Deno.test("a parked instance is not one that is warming, though it counts as one", () => {
  const counts = { busy_count: 0, ready_count: 1, warming_count: 3, parked_count: 2 };
  for (const most of [5, 100]) {
    const text = renderToString(html`<${PoolBar} counts=${counts} most=${most} />`);
    assert.match(text, /aria-label="0 busy, 1 ready, 1 warming, 2 parked, of/);
    if (most === 5) {
      assert.deepEqual([some(text, /"warming"/), some(text, /"parked"/)], [1, 2]);
    } else assert.match(text, /class="parked" style="width:\s?2%/);
  }
});

Deno.test("a large pool is a rail in proportion", () => {
  const counts = { busy_count: 50, ready_count: 25, warming_count: 0, parked_count: 0 };
  const text = renderToString(html`<${PoolBar} counts=${counts} most=${100} />`);
  assert.match(text, /class="busy" style="width:\s?50%/);
});

Deno.test("an instance above the limit, as while a limit is lowered, is shown as well", () => {
  const counts = { busy_count: 3, ready_count: 0, warming_count: 0, parked_count: 0 };
  assert.equal(some(renderToString(html`<${PoolBar} counts=${counts} most=${1} />`), /<i /), 3);
});

Deno.test("only rows in sight are drawn, and some around them", () => {
  assert.deepEqual(windowOf(10_000, -200, 900, 50), { from: 0, to: 20 });
  assert.deepEqual(windowOf(10_000, 5000, 900, 50), { from: 94, to: 124 });
  assert.deepEqual(windowOf(3, 0, 900, 50), { from: 0, to: 3 });
  assert.deepEqual(windowOf(5, 400_000, 900, 50), { from: 5, to: 5 });
});

Deno.test("every word of a search must be somewhere, whatever the case", () => {
  assert.ok(fits("BILL resize", "resize-image", "for billing"));
  assert.ok(!fits("bill resize", "resize-image", null));
  assert.ok(fits("  ", "anything"));
});

Deno.test("markup in output stays text", () => {
  const text = renderToString(html`<${Output} text="<script>alert(1)</script>" label="Output" />`);
  assert.match(text, /&lt;script/);
});

Deno.test("of long output the rest is counted", () => {
  const text = renderToString(
    html`<${Output} text=${"a\n".repeat(30)} label="Output" most=${10} />`,
  );
  assert.match(text, /and 20 more lines/);
});

const timeline = {
  cold_start: true,
  cold_reason: "scaled_out",
  phases: [{ name: "queued", microseconds: 1000 }, { name: "placed", microseconds: 0 }, {
    name: "ran",
    microseconds: 3000,
  }],
};

Deno.test("phases stand one behind the other and fill the whole", () => {
  assert.deepEqual(lanes(timeline).map((lane) => [lane.from, lane.width]), [[0, 25], [25, 0], [
    25,
    75,
  ]]);
  const text = renderToString(html`<${Waterfall} timeline=${timeline} />`);
  assert.match(text, /every instance was busy/);
  assert.equal(some(text, /<i class/), 2);
});

Deno.test("a warm call says so", () =>
  assert.match(coldSentence({ cold_start: false, cold_reason: null }), /^Warm/));

Deno.test("a long call says whether the time was the handler's own", () => {
  const phases = (queued: number, ran: number) => [
    { name: "queued", microseconds: queued * 1000 },
    { name: "ran", microseconds: ran * 1000 },
  ];
  assert.match(ranSentence(phases(1, 118)), /^The handler itself took 118 ms of the 119 ms/);
  assert.match(ranSentence(phases(0, 118)), /^The handler itself took all of the 118 ms/);
  assert.equal(ranSentence(phases(100, 118)), "");
  assert.equal(ranSentence(phases(0, 12)), "");
});

Deno.test("a gap in the data is a gap in the line", () =>
  assert.deepEqual(runs([1, 2, null, 3]), [[[0, 1], [1, 2]], [[3, 3]]]));

Deno.test("a moment of a chart in words", () => {
  const data = {
    at: [0, 60],
    calls: [1, 4],
    failed: [0, 2],
    cold: [0, 1],
    p50: [null, 5],
    p99: [null, 9],
  };
  assert.match(words(data, 0), /: 1 call$/);
  assert.match(words(data, 1), /: 4 calls, 2 failed, 1 cold, p50 5 ms, p99 9 ms$/);
});

Deno.test("a choice says which one is pressed", () => {
  const chosen = signal("b");
  const text = renderToString(
    html`<${Choice} label="State" options=${["a", "b"]} chosen=${chosen} />`,
  );
  assert.match(text, /aria-pressed="true"[^>]*>b</);
  assert.equal(some(text, /aria-pressed="true"/), 1);
});

Deno.test("a step that failed is told apart from one under way", () => {
  const of = (isBroken: boolean) =>
    renderToString(html`<${Steps} names=${["a", "b", "c"]} at=${1} isBroken=${isBroken} />`);
  assert.match(of(true), /class="done".*class="broken" aria-current="step"/);
  assert.match(of(false), /class="now"/);
});

Deno.test("a notice has the hint of a refusal", () => {
  const refusal = new Refused(409, { error: "taken", hint: "choose another" });
  const text = renderToString(html`<${Notice} of=${refusal} />`);
  assert.match(text, /role="alert".*taken.*choose another/s);
});

Deno.test("what a program wrote stays in its columns", () => {
  const wrote = "  def handler(event)\n                    ^";
  const of = Object.assign(new Error("importing main failed"), { wrote });
  const text = renderToString(html`<${Notice} of=${of} />`);
  assert.match(text, /<p>importing main failed<\/p>/);
  assert.match(text, /<pre class="mono small"> {2}def handler\(event\)\n {20}\^<\/pre>/);
});

Deno.test("a hint leaves out the call of the API that a page has a button for", () => {
  const hint = "resume it first: POST /api/functions/<id>/resume";
  const see = { operation: "resumeFunction", text: "POST /api/functions/<id>/resume" };
  const shown = (details: ErrorDetails) =>
    renderToString(html`<${Notice} of=${new Refused(409, { error: "paused", hint, details })} />`);
  assert.match(shown({ see }), />resume it first<\/p>/);
  assert.match(shown({}), /POST \/api/, "it is data that says what to leave out");
});

Deno.test("what never happened has no date", () => {
  assert.match(renderToString(html`<${Ago} at=${null} />`), /never/);
  assert.match(renderToString(html`<${Ago} at=${0} />`), /datetime="1970-01-01T00:00:00.000Z"/i);
});

Deno.test("a toast goes when it is dismissed, and the oldest when there are many", () => {
  const timers: number[] = [];
  const real = globalThis.setTimeout;
  globalThis.setTimeout = ((_: unknown, ms: number) => timers.push(ms)) as never;
  for (const text of ["a", "b", "c", "d", "e"]) toast(text, { isBad: text === "e" });
  globalThis.setTimeout = real;
  assert.deepEqual(toasts.value.map((entry) => entry.text), ["b", "c", "d", "e"]);
  assert.ok((timers[4] ?? 0) > (timers[3] ?? 0), "what failed stays longer");
  dismiss(toasts.value[0]?.id ?? 0);
  // Opening another page removes the toasts that were shown before.
  toasts.value = toasts.value.map((entry, n) => ({ ...entry, since: n === 2 ? Date.now() : 0 }));
  route.value = { parts: ["usage"], query: new URLSearchParams() };
  assert.deepEqual(toasts.value.map((entry) => entry.text), ["e"]);
  for (const entry of toasts.value) dismiss(entry.id);
  assert.deepEqual(toasts.value, []);
  route.value = { parts: [], query: new URLSearchParams() };
});

Deno.test("an undo is not pressed twice, and what it did is not taken back by the same press", async () => {
  const settled: (() => void)[] = [];
  const real = globalThis.setTimeout;
  globalThis.setTimeout = ((run: () => void, ms: number) => {
    if (ms === SETTLES_MS) settled.push(run);
  }) as never;
  const done: string[] = [];
  const last = () => toasts.value[toasts.value.length - 1] as Toast;
  toast("1 serves", {
    undo: () => {
      done.push("2 serves");
      toast("2 serves", { undo: () => void done.push("1 serves again") });
    },
  });
  await Promise.all([takeBack(last()), takeBack(last())]);
  await takeBack(last());
  assert.deepEqual(done, ["2 serves"]);
  for (const run of settled.splice(0)) run();
  await takeBack(last());
  assert.deepEqual(done, ["2 serves", "1 serves again"]);
  for (const run of settled) run();
  globalThis.setTimeout = real;
});

Deno.test("a row says at which sides it goes on", () => {
  const at = (scrollLeft: number) => sidesOf({ scrollLeft, clientWidth: 100, scrollWidth: 160 });
  assert.deepEqual([at(0), at(30), at(60)], ["right", "left right", "left"]);
  assert.equal(sidesOf({ scrollLeft: 0, clientWidth: 100, scrollWidth: 100 }), "");
});

Deno.test("an axis ends at a round number", () => {
  assert.deepEqual([0, 0.41, 1, 7, 20, 1560].map(roundUp), [1, 0.5, 1, 10, 20, 2000]);
  assert.deepEqual(marks(roundUp(1560), 2), [0, 1000, 2000]);
});

Deno.test("a question is answered once, and a second one answers the first with no", async () => {
  const question = { title: "Delete?", text: "It is gone then.", verb: "Delete" };
  const [first, second] = [confirm(question), confirm(question)];
  asked.value?.answer(true);
  assert.deepEqual([await first, await second], [false, true]);
  assert.equal(asked.value, null);
});

Deno.test("a refusal is said of the field that it names, by its label", () => {
  const refused = (field: string | null, expected: string, received?: unknown, status = 422) =>
    new Refused(status, { error: "a sentence", details: { field, expected, received } });
  const memory = refused("memory_limit_mb", "a whole number from 128 to 512", 5);
  assert.equal(fieldIn(memory), "memory_limit_mb");
  assert.equal(
    saidOf(memory, "memory_limit_mb", "Memory"),
    "Memory must be a whole number from 128 to 512, not 5",
  );
  assert.equal(saidOf(memory, "name", "Name"), null);
  const nested = refused("environment.A-B", "a string");
  assert.equal(saidOf(nested, "environment", "Variables"), "Variables (A-B) must be a string");
  assert.equal(saidOf(nested, "env", "Other"), null);
  const listed = refused("types[1]", "a string");
  assert.equal(saidOf(listed, "types", "Types"), "Types[1] must be a string");
  assert.equal(fieldIn(refused(null, "")), null);
  assert.equal(fieldIn(refused("name", "free", null, 409)), null);
  assert.equal(
    fieldIn(new Refused(422, { error: "name must be free" })),
    null,
    "no sentence is read",
  );
});
