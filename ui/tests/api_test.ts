import assert from "node:assert/strict";
import { answered } from "./page.ts";
import { call, credential, get, needsKey, pages, Refused } from "../src/api.ts";

Deno.test("a path is relative to the page, so a proxy's own path in front of it does not matter", async () => {
  const [sent] = await answered([[200, {}]], () => get("api/functions", { q: "a b", state: null }));
  assert.equal(sent?.path, "api/functions?q=a+b");
});

Deno.test("the key is a header, and never in an address", async () => {
  credential.set("quilt_sk_x");
  const [sent] = await answered([[200, {}]], () => get("api/functions"));
  sessionStorage.clear();
  assert.equal(sent?.headers.get("x-api-key"), "quilt_sk_x");
  assert.ok(!sent?.path.includes("quilt_sk_x"));
});

Deno.test("a refusal has the server's words, its hint and its code", async () => {
  const body = { error: "name is taken", error_code: "CONFLICT", hint: "choose another" };
  await answered(
    [[409, body]],
    () =>
      assert.rejects(call("POST", "api/functions", { body: {} }), (error: Refused) => {
        assert.deepEqual([error.status, error.code, error.message, error.hint], [
          409,
          "CONFLICT",
          "name is taken",
          "choose another",
        ]);
        return true;
      }),
  );
});

Deno.test("a 401 asks for a key", async () => {
  needsKey.value = false;
  await answered([[401, { error: "no" }]], () => assert.rejects(get("api/functions")));
  assert.equal(needsKey.value, true);
  needsKey.value = false;
});

Deno.test("the page of a proxy is no answer of ours, and its status is told", async () => {
  const real = globalThis.fetch;
  globalThis.fetch = () => Promise.resolve(new Response("<html>bad gateway", { status: 502 }));
  await assert.rejects(get("api/functions"), /answered 502/).finally(() => globalThis.fetch = real);
});

Deno.test("a server that cannot be reached is a refusal as well", () =>
  answered([], () => assert.rejects(get("api/x"), (error: Refused) => error.status === 0)).then(
    () => {},
  ));

Deno.test("pages follow the cursor to the end", async () => {
  const found: unknown[] = [];
  const sent = await answered([[200, { a: 1, next_cursor: "Zg" }], [200, { a: 2 }]], async () => {
    for await (const page of pages<{ a: number; next_cursor?: string }>("api/x", { limit: 1 })) {
      found.push(page.a);
    }
  });
  assert.deepEqual(found, [1, 2]);
  assert.deepEqual(sent.map((request) => request.path), [
    "api/x?limit=1",
    "api/x?limit=1&cursor=Zg",
  ]);
});
