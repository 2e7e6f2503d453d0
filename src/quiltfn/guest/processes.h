// SPDX-License-Identifier: Apache-2.0
//
// The processes of the sandbox: detects their ends, reaps them, and kills all of them.

#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

// Whether the guest had no child at the last wait. Then no process of an invocation is alive: every
// process of the namespace descends from the guest, and if the parent of a process ends, the
// process becomes a child of the guest before that parent can be reaped.
extern bool childless;

// Whether the current invocation had processes besides its handler.
extern bool met_others;

struct end {
    enum exit_kind kind;
    uint32_t code;
};

// A descriptor that becomes readable when a child has ended.
extern int child_signal;
void forget_child_signal(void);

bool reap(pid_t handler, int *status, bool *more);
struct end end_of(int status);
void kill_everyone(void);
