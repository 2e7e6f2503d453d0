// SPDX-License-Identifier: Apache-2.0
//
// Detects changes by an invocation to the runner that it ran in or was forked from.

#pragma once

#include <stdbool.h>
#include <sys/types.h>

// Call this when the runner is ready, before its first invocation.
void parent_remember(pid_t pid, bool by_forks);
void parent_forget(void);

// A descriptor of the list of a forking runner's children, for pread; -1 for any other runner.
int parent_children(void);

// Call this after an invocation, when no process is left that could change the result.
bool parent_waits(pid_t pid, bool by_forks);
bool parent_is_as_it_was(pid_t pid);
