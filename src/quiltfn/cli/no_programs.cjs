// Loaded into npm and pnpm before their own code, by NODE_OPTIONS: they start no other program. A
// dependency that is a repository would be cloned by git, and prepared by a second npm that obeys
// what stands in it.
"use strict";

const children = require("node:child_process");
const { writeFileSync } = require("node:fs");
const { syncBuiltinESMExports } = require("node:module");

// There is no such file: what is started fails as a missing program does.
const NOTHING = `${__dirname}/no-other-program-is-started-while-packages-are-installed`;

const spawn = children.ChildProcess.prototype.spawn;
children.ChildProcess.prototype.spawn = function (options) {
  return spawn.call(this, { ...options, file: NOTHING });
};
const refuse = () => {
  throw Object.assign(new Error("no other program is started while packages are installed"), {
    code: "EPERM",
  });
};
for (const name of ["spawnSync", "execSync", "execFileSync"]) children[name] = refuse;
syncBuiltinESMExports();

// Says that it was loaded.
if (process.env.QUILTFN_LOADED) writeFileSync(process.env.QUILTFN_LOADED, "");
