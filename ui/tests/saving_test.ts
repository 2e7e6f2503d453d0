// promise: A75
import assert from "node:assert/strict";
import { answered } from "./page.ts";
import { named, outdatedBy } from "../src/outdated.ts";
import { aboutFiles, othersWith, update } from "../src/saving.ts";
import { functions } from "../src/store.ts";
import { mainOf } from "../src/version_files.ts";
import type { Function, FunctionSummary, Runtime, Version } from "../src/wire.ts";

const OLD = "a".repeat(64), NEW = "b".repeat(64);
const fn = { id: "F", name: "f", runtime: "r", handler: "m:h", current_version: 1 } as Function;
const runtime = {
  ...{ name: "r", kind: "python", image: NEW, image_digest: `sha256:${NEW}`, command: [] },
  ...{ environment: {}, isolation: "crun", network: "none", writable_paths: [], built_in: false },
  ...{ id: "1", shared: false, created_at: 0, base_image: null, interpreter: "" },
} as Runtime;
const versions = [{ version: 2, image_digest: `sha256:${NEW}` }, {
  version: 1,
  image_digest: `sha256:${OLD}`,
}] as Version[];
const known: [number, unknown][] = [[200, { runtimes: [runtime] }], [200, { versions }]];
const standing = { served: versions[1] as Version, newest: 2, runtime };
const lines = (sent: Awaited<ReturnType<typeof answered>>) =>
  sent.map(({ method, path, body }) => `${method} ${path.split("?")[0]} ${body ?? ""}`.trim());

Deno.test("where the runtime has other files, those of the version that serves are set first", async () => {
  const edits = new Map<string, string>();
  const sent = await answered(
    [...known, [201, runtime], [200, { ...fn, current_version: 3 }]],
    () => update(fn, { memory_limit_mb: 300 }, edits),
  );
  assert.equal(JSON.parse(sent[2]?.body ?? "").image, OLD);
  assert.equal(lines(sent)[3], 'PUT api/functions/F {"runtime":"r","memory_limit_mb":300}');
  assert.equal(
    aboutFiles(fn, standing)?.said,
    "You are editing the code of version 1; saving creates version 3.",
  );
});

Deno.test("a runtime that only has newer code of the function was not replaced", () => {
  assert.deepEqual(outdatedBy(fn, standing, versions), [2]);
  assert.equal(outdatedBy(fn, standing, versions.slice(1)), "runtime"); // replaced elsewhere
  const served = versions[0] as Version;
  const latest = { ...fn, current_version: 2 };
  assert.equal(outdatedBy(latest, { ...standing, served }, versions), "runtime"); // the runtime's settings differ
  const shared = { ...runtime, shared: true };
  assert.equal(outdatedBy(fn, { ...standing, runtime: shared }, versions), "runtime");
  assert.equal(named([5, 4, 3, 2]), "v5, v4, v3, …");
});

Deno.test("packages come with the code that lies over them, and back with it", async () => {
  const now = { image: NEW, packages: "c".repeat(64), packages_key: "python:1" };
  const own = { ...runtime, ...now, image_digest: `sha256:${NEW}+${now.packages}` };
  const before = "d".repeat(64);
  const cases: [string, unknown][] = [
    [`sha256:${OLD}+${now.packages}`, { ...now, image: OLD }],
    [`sha256:${OLD}+${before}`, { image: OLD, packages: before, packages_key: null }],
    [`sha256:${OLD}+${before}+base:1`, { image: OLD, packages: before, packages_key: null }],
    [`sha256:${OLD}+base:1`, { image: OLD }],
    ["base:1", { image: null }],
  ];
  for (const [image_digest, expected] of cases) {
    const served = [{ version: 1, image_digest }];
    const sent = await answered(
      [
        ...[[200, { runtimes: [own] }], [200, { versions: served }], [201, own]] as typeof known,
        [422, { error: "no" }],
        [201, own],
      ],
      () => assert.rejects(update(fn, { memory_limit_mb: 1 }, new Map())),
    );
    const [tried, undone] = [2, 4].map((n) => {
      const { image, packages, packages_key } = JSON.parse(sent[n]?.body ?? "");
      return { image, ...(packages !== undefined && { packages, packages_key }) };
    });
    assert.deepEqual(tried, expected);
    assert.deepEqual(undone, now);
  }
});

Deno.test("a runtime gets its files back where the version is refused", async () => {
  const sent = await answered(
    [...known, [201, runtime], [422, { error: "memory_limit_mb must be less" }], [201, runtime]],
    () =>
      assert.rejects(
        update(fn, { memory_limit_mb: 9_999_999 }, new Map()),
        /memory_limit_mb/,
      ),
  );
  assert.equal(JSON.parse(sent[4]?.body ?? "").image, NEW);
});

Deno.test("where the files are the same, or another runtime is chosen, only the function is changed", async () => {
  const same: typeof known = [
    [200, { runtimes: [{ ...runtime, image_digest: `sha256:${OLD}` }] }],
    [
      200,
      { versions },
    ],
  ];
  assert.deepEqual(
    lines(
      await answered([...same, [200, fn]], () => update(fn, { name: "g" }, new Map())),
    )[2],
    'PUT api/functions/F {"name":"g"}',
  );
  assert.deepEqual(
    lines(
      await answered([...known, [200, fn]], () => update(fn, { runtime: "s" }, new Map())),
    )[2],
    'PUT api/functions/F {"runtime":"s"}',
  );
});

Deno.test("who else has a runtime is known", () => {
  assert.equal(othersWith(fn, runtime), "");
  assert.equal(othersWith(fn, { ...runtime, shared: true }), "other tenants");
  functions.value = new Map(
    ["F", "G"].map((id) => [id, { id, runtime: "r" } as FunctionSummary]),
  );
  assert.equal(othersWith(fn, runtime), "1 other function");
  assert.match(aboutFiles(fn, standing)?.said ?? "", /gets those of the runtime/);
  functions.value = new Map();
});

Deno.test("where a runtime changed otherwise than by its files, that comes with the next version", () => {
  const same = { ...standing, served: versions[0] as Version };
  assert.equal(aboutFiles(fn, same), null);
  assert.equal(
    aboutFiles({ ...fn, runtime_outdated: true }, same)?.said,
    "A new version gets runtime r as it is now.",
  );
});

Deno.test("the only file is opened at once, or the one that the handler names", () => {
  const file = (path: string, size_bytes = 1) => ({
    ...{ path, size_bytes, is_link: false, is_executable: false },
  });
  assert.equal(mainOf([file("x.py")], "main:handler"), "x.py");
  assert.equal(mainOf([file("x.py", 1e9)], "x:handler"), null);
  assert.equal(mainOf([file("a.py"), file("pkg/main.py")], "pkg.main:handler"), "pkg/main.py");
  assert.equal(mainOf([file("a.py"), file("b.py")], "main:handler"), null);
});
