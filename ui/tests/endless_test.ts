// promise: A55
import assert from "node:assert/strict";
import { answered } from "./page.ts";
import { Endless } from "../src/parts/lists/endless.ts";

interface Item {
  id: string;
  status?: string;
}
interface Page {
  items: Item[];
  next_cursor: string | null;
}

const endless = () =>
  new Endless<Item, Page>(
    "api/invocations",
    { status: "failed" },
    (item) => item.id,
    (page) => ({ items: page.items, next: page.next_cursor }),
  );
const page = (ids: string, next: string | null = null): [number, Page] => [
  200,
  { items: [...ids].map((id) => ({ id })), next_cursor: next },
];
const ids = (items: readonly Item[]) => items.map((item) => item.id).join("");
const settled = () => new Promise((resolve) => setTimeout(resolve, 5));

Deno.test("pages follow each other until there are no more", async () => {
  let list = null as unknown as Endless<Item, Page>;
  const sent = await answered([page("fe", "c1"), page("dc")], async () => {
    list = endless();
    await settled();
    await list.more();
    await list.more();
  });
  assert.equal(ids(list.items.value), "fedc");
  assert.ok(list.isWhole.value);
  assert.deepEqual(
    sent.map((request) => new URLSearchParams(request.path.split("?")[1]).get("cursor")),
    [
      null,
      "c1",
    ],
  );
  assert.ok(sent.every((request) => request.path.includes("status=failed")));
});

Deno.test("pages without a match are passed", async () => {
  let list = null as unknown as Endless<Item, Page>;
  await answered([page("", "c1"), page("", "c2"), page("a")], async () => {
    list = endless();
    await settled();
  });
  assert.equal(ids(list.items.value), "a");
});

Deno.test("newer ones come on top, and wait where the reader is further down", async () => {
  let list = null as unknown as Endless<Item, Page>;
  await answered([page("cb", "x"), page("dcb", "x"), page("edcb", "x")], async () => {
    list = endless();
    await settled();
    await list.look(() => true);
    assert.equal(ids(list.items.value), "dcb");
    await list.look(() => false);
  });
  assert.deepEqual([ids(list.items.value), ids(list.held.value)], ["dcb", "e"]);
  list.show();
  assert.deepEqual([ids(list.items.value), ids(list.held.value)], ["edcb", ""]);
});

Deno.test("what is shown is renewed in its place", async () => {
  let list = null as unknown as Endless<Item, Page>;
  const ended = { items: [{ id: "b", status: "success" }, { id: "a" }], next_cursor: null };
  await answered([page("ba"), [200, ended]], async () => {
    list = endless();
    await settled();
    await list.look(() => true);
  });
  assert.equal(ids(list.items.value), "ba");
  assert.equal(list.items.value[0]?.status, "success");
});

Deno.test("where more came than are looked at, the list begins anew", async () => {
  let list = null as unknown as Endless<Item, Page>;
  await answered([page("ba"), page("zyx", "c"), page("wv")], async () => {
    list = endless();
    await settled();
    await list.look(() => true);
    assert.equal(ids(list.items.value), "zyx");
    await list.more();
  });
  assert.equal(ids(list.items.value), "zyxwv");
});

Deno.test("a refusal is told, and the next try goes on where it was", async () => {
  let list = null as unknown as Endless<Item, Page>;
  await answered([page("b", "c1"), [503, { error: "not now" }], page("a")], async () => {
    list = endless();
    await settled();
    await list.more();
    assert.equal(list.problem.value?.message, "not now");
    await list.more();
  });
  assert.equal(ids(list.items.value), "ba");
  assert.equal(list.problem.value, null);
});
