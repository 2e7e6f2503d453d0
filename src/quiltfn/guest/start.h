// SPDX-License-Identifier: Apache-2.0
//
// Starting a process of the sandbox.

#pragma once

#include <stdbool.h>
#include <sys/types.h>

// Why a process could not be started. The child of vfork sets it, too, since it shares memory.
extern struct failure {
    const char *step;
    const char *name;
    int error;
} volatile failure;

void could_not(const char *step, const char *name, int error);

// Opens the guest's oom_score_adj for writing, and tests it. `of_handlers`: the handlers' score as
// text.
bool prepare_oom_score(const char *of_handlers);

enum as { HANDLER, GUEST };

// Returns the process, or -1 on failure. If a step before execve failed, `failure` has it.
pid_t start(enum as who, const int fds[3], int more, int as, char **argv, char **env);
