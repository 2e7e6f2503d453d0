// SPDX-License-Identifier: Apache-2.0
//
// The processes of the sandbox: noticing their ends, reaping them, killing all of them.

#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

// Whether the last wait found that we have no child. Then no process of a call is alive: every process
// of the namespace descends from us, and one whose parent ends becomes our child before that parent can
// be reaped.
extern bool childless;

// Whether the call in hand had processes beside its handler.
extern bool met_others;

struct end {
    enum exit_kind kind;
    uint32_t code;
};

// A descriptor that is readable when a child has ended.
extern int child_signal;
void forget_child_signal(void);

bool reap(pid_t handler, int *status, bool *more);
struct end end_of(int status);
void kill_everyone(void);
