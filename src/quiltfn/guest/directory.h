// SPDX-License-Identifier: Apache-2.0
//
// The working directory of a version.

#pragma once

// Sets special.cwd to the directory's real name. Else an errno, and `why` says what is wrong with it.
int prove_cwd(const char **why);
