// SPDX-License-Identifier: Apache-2.0
//
// A shell that is started once, and forked for each invocation.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "frames.h"

enum { BLOCK_MAX = 60 * 1024 }; // A pipe has room for 64 KiB, so writing never blocks.

// A library (*.so) that makes /bin/sh a zygote, or a shell that contains it; NULL: no zygotes.
extern char *zygote_file;
extern unsigned char fork_block[sizeof(uint32_t) + BLOCK_MAX];

pid_t zygote_process(void); // 0: no zygote.
void zygote_gone(void);
void zygote_end(void);     // Until the next fork is asked for.
void zygote_prepare(void); // Starts it before the version is known.
void zygote_abandon(void); // Ends it, and leaves this version without one.
bool zygote_ask(const int fds[3], int variables);
pid_t zygote_told(void);
size_t zygote_write_block(const struct call *call);
