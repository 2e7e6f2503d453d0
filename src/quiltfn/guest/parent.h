// SPDX-License-Identifier: Apache-2.0
//
// What a call did to the runner that it ran in or was forked from.

#pragma once

#include <stdbool.h>
#include <sys/types.h>

// When the runner is ready, and no call has come near it.
void parent_remember(pid_t pid, bool by_forks);
void parent_forget(void);

// The list of a forking runner's children, to be read with pread; -1 for any other runner.
int parent_children(void);

// After a call, when no process is left that could change the answer.
bool parent_waits(pid_t pid, bool by_forks);
bool parent_is_as_it_was(pid_t pid);
