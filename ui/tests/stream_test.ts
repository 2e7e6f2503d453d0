// promise: A74
import assert from "node:assert/strict";
import "./page.ts";
import { EventParser, Following } from "../src/stream.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

Deno.test("an event is the same in any cut", () => {
  const whole = bytes(': hi\nid: 7\nevent: pool\ndata: {"a":\ndata: "ü"}\n\r\nretry: 5\n\n');
  for (let cut = 0; cut <= whole.length; cut++) {
    const parser = new EventParser();
    const found = [...parser.push(whole.slice(0, cut)), ...parser.push(whole.slice(cut))];
    assert.deepEqual(found, [{ event: "pool", data: '{"a":\n"ü"}', id: "7" }], `cut at ${cut}`);
  }
});

Deno.test("a comment is no event", () =>
  assert.deepEqual(new EventParser().push(bytes(": heartbeat\n\n")), []));

/** Follows a stream of canned connections until `enough` returns true. */
async function follow(
  connections: (string | number)[],
  enough: (heard: string[]) => boolean,
): Promise<{ heard: string[]; lastIds: (string | null)[] }> {
  const heard: string[] = [], lastIds: (string | null)[] = [];
  const real = globalThis.fetch;
  globalThis.fetch = ((_: URL, init: RequestInit) => {
    lastIds.push(new Headers(init.headers).get("last-event-id"));
    const next = connections.shift() ?? ": still here\n\n";
    if (typeof next === "number") return Promise.resolve(new Response("{}", { status: next }));
    return Promise.resolve(new Response(next));
  }) as typeof fetch;
  const followed = await new Promise<Following>((resolve) => {
    const say = (text: string) => {
      heard.push(text);
      if (enough(heard)) queueMicrotask(() => resolve(following));
    };
    const following = new Following(new URL("http://x.test/"), {
      onEvent: (event) => say(event),
      onState: (state) => say(state),
      onGap: () => say("gap"),
    });
  });
  followed.end();
  await new Promise((resolve) => setTimeout(resolve, 1));
  globalThis.fetch = real;
  return { heard, lastIds };
}

Deno.test("a lost stream is taken up behind the last event", async () => {
  const first = ": \n\nid: 1-5\nevent: pool\ndata: {}\n\n",
    second = ": \n\nid: 1-6\nevent: calls\ndata: {}\n\n";
  const { heard, lastIds } = await follow([first, second], (all) => all.includes("calls"));
  assert.deepEqual(heard, ["live", "gap", "pool", "lost", "live", "calls"]);
  assert.deepEqual(lastIds.slice(0, 2), [null, "1-5"]);
});

const times = (count: number, text: string) => (all: string[]) =>
  all.filter((heard) => heard === text).length === count;

Deno.test("what was fetched before the stream began may miss events", async () => {
  const { heard } = await follow([": \n\n"], (all) => all.includes("gap"));
  assert.deepEqual(heard, ["live", "gap"]);
});

Deno.test("a reset has everything fetched again", async () => {
  const { heard } = await follow(
    [": \n\nid: 2-1\nevent: reset\ndata: {}\n\n"],
    times(2, "gap"),
  );
  assert.deepEqual(heard, ["live", "gap", "gap"]);
});

Deno.test("a stream that was lost before its first event may have missed some", async () => {
  const { heard } = await follow([": \n\n", ": \n\n"], times(2, "gap"));
  assert.deepEqual(heard, ["live", "gap", "lost", "live", "gap"]);
});

Deno.test("a server that has no events for the caller is polled", async () => {
  const { heard } = await follow([403], (all) => all.includes("gap"));
  assert.deepEqual(heard, ["polling", "gap"]);
});
