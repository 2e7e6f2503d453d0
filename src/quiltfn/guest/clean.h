// SPDX-License-Identifier: Apache-2.0
//
// Finding and removing what a call left in the sandbox's file systems and in its IPC namespace.

#pragma once

#include <stdbool.h>

// What the host said of them when it started us.
extern const char *tmp_options, *shm_options;
extern char **writable; // Further file systems that handlers may write to, like /tmp; NULL ends it.

bool touched(const char *path);
void renew(const char *path, unsigned long flags, const char *options);
// How many System V objects exist, and the highest index in use of each kind.
unsigned long count_sysv(int highest[3]);
void remove_sysv(const int highest[3]);
