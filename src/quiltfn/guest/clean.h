// SPDX-License-Identifier: Apache-2.0
//
// Finds and removes leftovers of an invocation in the sandbox's file systems and IPC namespace.

#pragma once

#include <stdbool.h>

// Mount options from the guest's command line.
extern const char *tmp_options, *shm_options;
extern char **writable; // Further file systems that handlers may write to, like /tmp; NULL ends it.

bool touched(const char *path);
void renew(const char *path, unsigned long flags, const char *options);
// Returns the number of System V objects, and the highest index in use of each kind.
unsigned long count_sysv(int highest[3]);
void remove_sysv(const int highest[3]);
