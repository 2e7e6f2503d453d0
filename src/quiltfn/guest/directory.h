// SPDX-License-Identifier: Apache-2.0
//
// The working directory of a version.

#pragma once

// Sets special.cwd to the directory's real name. Returns 0, or an errno with the reason in `why`.
int prove_cwd(const char **why);
