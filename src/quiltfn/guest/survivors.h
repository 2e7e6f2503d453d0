// SPDX-License-Identifier: Apache-2.0
//
// Processes that a call leaves beside a runner that stays: found and killed.

#pragma once

#include <stdbool.h>
#include <sys/types.h>

// Opens /proc/PID/WHAT for reading.
int open_of(pid_t pid, const char *what);

// Kills all our children but `kept`. How many these were, or -1 if `kept` was not among them.
int kill_children_but(pid_t kept);
// Kills everybody but us and `kept`. False where `kept` has ended and was reaped.
bool kill_all_but(pid_t kept);
