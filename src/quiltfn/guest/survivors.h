// SPDX-License-Identifier: Apache-2.0
//
// Finds and kills processes that an invocation leaves beside a runner that stays.

#pragma once

#include <stdbool.h>
#include <sys/types.h>

// Kills all children of the guest except `kept`. Returns their number, or -1 if `kept` was not
// there.
int kill_children_but(pid_t kept);
// Kills all processes except the guest and `kept`. Returns false if `kept` has ended and was
// reaped.
bool kill_all_but(pid_t kept);
