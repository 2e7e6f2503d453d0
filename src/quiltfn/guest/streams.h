// SPDX-License-Identifier: Apache-2.0
//
// The streams of an invocation: creates, reads and counts them.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// One source of an invocation's output. `kind`: the kind of its frames, 'O' for standard output,
// 'E' for standard error, 'T' for the result.
struct stream {
    int fd;
    unsigned char kind;
    bool ended;
    uint64_t sent, dropped;
};

extern bool result_has_limit;
// Parses "STDOUT,STDERR[,RESULT]"; returns false for anything else.
bool set_output_max(const char *numbers);
size_t room_of(const struct stream *stream);

// Creates standard input and both outputs. On failure returns false with `failure` set; the arrays
// have the descriptors created so far.
bool open_streams(bool has_payload, int fds[3], struct stream streams[2]);

int payload_file(void);
// Copies an invocation's payload from the host into a file. On failure returns false with `failure`
// set; the payload is read completely in any case.
bool take_payload(int fd, size_t length);

bool pump(struct stream *stream, uint64_t nonce);
size_t held_by(int fd);
void pump_held(struct stream *stream, uint64_t nonce);
void empty(struct stream streams[2], uint64_t nonce);
// Adds bytes to an invocation's output, as far as there is room.
void add_to(struct stream *stream, uint64_t nonce, const void *bytes, size_t n);
