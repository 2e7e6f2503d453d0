// SPDX-License-Identifier: Apache-2.0
//
// Opens, closes and sends descriptors.

#pragma once

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

// Opens /proc/PID/WHAT for reading.
int open_of(pid_t pid, const char *what);

void close_if_open(int *fd);
// Closes the guest's copies of a handler's descriptors. A started handler has its own.
void close_all(int fds[3]);

enum { FORK_FDS = 4 }; // The maximum number of descriptors in a message: streams and variables.

// Sends bytes, with descriptors attached to the first one.
ssize_t send_with(int to, struct iovec *bytes, const int *fds, size_t count, int flags);
