// SPDX-License-Identifier: Apache-2.0
//
// The socket to the host: the guest's two buffers, one for each direction.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

// Frames are laid one behind the other and sent together: output, end and clean of a short call
// are one send. Only the last may still be growing: it lies at `open`, and `stream` is its kind,
// or 0 when none is. `since` is when the buffer last was empty.
extern struct out {
    unsigned char bytes[HEADER + NONCE + CHUNK_MAX + 4 * 1024];
    size_t used, open;
    unsigned char stream;
    uint64_t since;
} out;

// Up to `most` bytes of what has come, where they lie; waits for the first.
size_t in_some(unsigned char **at, size_t most);
void in_exactly(unsigned char *to, size_t length);
// Whether bytes have been read from the socket that nobody has taken.
bool in_holds_some(void);
// Wipes what has been read.
void in_wipe(void);
// Ends the guest if more came than a frame: between a call and its CLEAN the host is silent.
void expect_silence(void);
// Ends the guest if the host said something during a call, or hung up.
void check_host(void);

void out_send(void);
// The same, and with the first byte a descriptor, unless it is -1.
void out_send_with(int fd);
unsigned char *out_frame(unsigned char kind, size_t length);
