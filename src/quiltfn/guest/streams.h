// SPDX-License-Identifier: Apache-2.0
//
// The streams of a call: making, reading and counting them.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

// One source of a call's bytes. `kind` is that of their frames: 'O' and 'E' are standard output and
// error, 'T' is the result.
struct stream {
    int fd;
    unsigned char kind;
    bool ended;
    uint64_t sent, dropped;
};

extern bool result_has_limit;
// "STDOUT,STDERR[,RESULT]"; false for anything else.
bool set_output_max(const char *numbers);
size_t room_of(const struct stream *stream);

// Makes standard input and both outputs. On failure returns false with `failure` set, and what was made
// until then is in the arrays.
bool open_streams(bool has_payload, int fds[3], struct stream streams[2]);
void close_if_open(int *fd);
void close_all(int fds[3]);

int payload_file(void);
// Copies a call's payload from the host into a file. On failure returns false with `failure` set, and
// the payload has been read all the same.
bool take_payload(int fd, size_t length);

enum { FORK_FDS = 4 }; // The most descriptors that go with a message: streams and variables.

ssize_t send_with(int to, struct iovec *bytes, const int *fds, size_t count, int flags);

bool pump(struct stream *stream, uint64_t nonce);
size_t held_by(int fd);
void pump_held(struct stream *stream, uint64_t nonce);
void empty(struct stream streams[2], uint64_t nonce);
// Adds to what a call wrote, as far as there is room.
void add_to(struct stream *stream, uint64_t nonce, const void *bytes, size_t n);
