// SPDX-License-Identifier: Apache-2.0
//
// The socket to the host: the guest's two buffers, one for each direction.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "protocol.h"

// Frames are collected and sent together: output, end and clean of a short invocation are one send.
// Only the last frame may still grow: it begins at `open`, and `stream` is its kind, or 0 if no
// frame grows. `since`: the time when the buffer was last empty.
extern struct out {
    unsigned char bytes[HEADER + NONCE + CHUNK_MAX + 4 * 1024];
    size_t used, open;
    unsigned char stream;
    uint64_t since;
} out;

// Waits for the host. Returns false if it has sent nothing within the time set by in_patience.
bool in_comes(void);
// Sets how long in_comes waits, in seconds; 0: without an end.
void in_patience(time_t seconds);
// Points `at` to up to `most` received bytes; waits for the first. Returns their number.
size_t in_some(unsigned char **at, size_t most);
void in_exactly(unsigned char *to, size_t length);
// Whether bytes that were read from the socket are not used yet.
bool in_holds_some(void);
// Overwrites all bytes that have been read.
void in_wipe(void);
// Ends the guest if data follows the frame: between CALL and CLEAN the host must not send anything.
void expect_silence(void);
// Ends the guest if the host sent data during an invocation, or closed the connection.
void check_host(void);

void out_send(void);
// Like out_send, with the descriptor attached to the first byte, unless it is -1.
void out_send_with(int fd);
unsigned char *out_frame(unsigned char kind, size_t length);
