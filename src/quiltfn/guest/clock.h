// SPDX-License-Identifier: Apache-2.0
//
// The clock of all deadlines.

#pragma once

#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "protocol.h"

#define MS_NS UINT64_C(1000000)
#define SECOND_NS UINT64_C(1000000000)

static inline uint64_t now_ns(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0)
        _exit(BROKEN);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}
