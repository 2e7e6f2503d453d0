// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "request.h"

#include <stdint.h>

// How an ordinary invocation ends: its handler has exited with 0.
struct reply {
    bool is_error;      // `output` is of standard error.
    struct text output; // At most one piece.
    bool is_clean;      // The instance is clean already.
};

// Returns whether the bytes are exactly the frames of such an end.
bool read_reply(const char *bytes, size_t length, uint64_t nonce, struct reply *to);

// Returns whether the bytes are exactly the frame that says that the instance is clean.
bool is_clean(const char *bytes, size_t length, uint64_t nonce);

// A CALL frame, which is written piece by piece.
struct call {
    uint64_t nonce;
    uint32_t timeout_ms, flags;
    struct text payload;
};
enum { CALL_HEAD = 28, COUNT = 4, CALL_ROOM = 32 * 1024 };

// Adds a variable to the `used` bytes of the frame at `to`, which has `CALL_ROOM` bytes. Returns the
// new number; 0 if the variable is not ordinary, or there is no room.
size_t put_variable(char *to, size_t used, struct text name, struct text value);

// Completes the frame, whose variables take `used` bytes. Returns its size; 0 if there is no room.
size_t put_call(char *to, size_t used, uint32_t count, const struct call *of);
