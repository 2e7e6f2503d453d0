// NODE_OPTIONS loads this into npm and pnpm before their own code, so that they start no other
// program. Otherwise they would clone a dependency that is a repository with git, and prepare it
// with a second npm, which obeys the repository's settings.
"use strict";

const children = require("node:child_process");
const { writeFileSync } = require("node:fs");
const { syncBuiltinESMExports } = require("node:module");

// This file doesn't exist, so starting it fails like starting a missing program.
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

// Shows that this file was loaded.
if (process.env.QUILTFN_LOADED) writeFileSync(process.env.QUILTFN_LOADED, "");
