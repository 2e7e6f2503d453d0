// SPDX-License-Identifier: Apache-2.0
//
// Starting a process of the sandbox.

#pragma once

#include <stdbool.h>
#include <sys/types.h>

// The child of vfork tells here where it failed; the memory is shared until it execs.
extern struct failure {
    const char *step;
    const char *name;
    int error;
} volatile failure;

void could_not(const char *step, const char *name, int error);

// The score that handlers have, from 0 to 1000, and what lets us write it. False where it cannot be had.
bool prepare_oom_score(const char *of_handlers);

enum as { HANDLER, GUEST };

// The process, or -1. Where it could not become what it was to be, `failure` says so.
pid_t start(enum as who, const int fds[3], int more, int as, char **argv, char **env);
