// SPDX-License-Identifier: Apache-2.0
//
// The shell of the next invocation, started while the sandbox is idle.

#pragma once

#include <sys/types.h>

#include "frames.h"
#include "streams.h"

void prefork_start(void);
void prefork_rest(void);
pid_t prefork_take(const struct call *call, struct stream streams[2]);
