// SPDX-License-Identifier: Apache-2.0
//
// Starting a process of the sandbox.

#pragma once

#include <stdbool.h>
#include <sys/types.h>

// Why something could not be started. The child of vfork sets it, too: it shares our memory.
extern struct failure {
    const char *step;
    const char *name;
    int error;
} volatile failure;

void could_not(const char *step, const char *name, int error);

// Opens what sets our oom_score_adj and checks it. `of_handlers`: the handlers' score, as text.
bool prepare_oom_score(const char *of_handlers);

enum as { HANDLER, GUEST };

// Returns the process, or -1. If it failed before execve, `failure` says where.
pid_t start(enum as who, const int fds[3], int more, int as, char **argv, char **env);
