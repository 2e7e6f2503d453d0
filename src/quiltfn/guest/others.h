// SPDX-License-Identifier: Apache-2.0
//
// What a call leaves beside a runner that stays, and what it did to that.

#pragma once

#include <stdbool.h>
#include <sys/types.h>

// How many children but `kept` were there, and are killed; -1 if `kept` was not among them.
int kill_children_but(pid_t kept);
// False where `kept` has ended and was reaped.
bool kill_all_but(pid_t kept);

// Of a runner, when it is ready and no call has come near it.
void parent_remember(pid_t pid, bool by_forks);
void parent_forget(void);
// After a call, when nobody else is alive.
bool parent_waits(pid_t pid, bool by_forks);
bool parent_is_as_it_was(pid_t pid);
