// SPDX-License-Identifier: Apache-2.0
//
// A program that is started before a call comes and is then told of it.

#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "frames.h"
#include "processes.h"
#include "streams.h"

enum { LINE = 512 }; // The longest line that is taken from one.

extern struct runner {
    pid_t pid; // 0: there is none.
    int control, out, log;
    bool forks;
    bool result_on_stdout; // What is written to its descriptor 1 is a call's result.
    char line[LINE]; // What has come of its next line.
    size_t line_used;
    char told[LINE]; // After `ready` or `refused`: why, for people.
    size_t result_left; // Bytes of a result that is behind its `done`.
    struct end end;     // What that `done` said.
    // What it is still to be told of the call: bytes, then a file.
    size_t ask_used, ask_sent;
    int file;
    off_t file_sent;
    size_t file_left;
    // What it wrote before it was ready belongs to the first call's standard error.
    size_t start_log_used;
    // Of one that forks: what the next call is given instead of the runner's own streams.
    int given[3];
    struct stream streams[2];
} runner;

// Starting it. Not 0, but an errno: `told` says why, and it is gone; runner_last_log copies what it wrote last, at most
// LAST_WORDS bytes.
size_t runner_last_log(unsigned char *to);
int runner_spawn(void);
int runner_start(void);
int runner_load(void);
void runner_drop(void);
void runner_close(void);

// A call of it, in this order.
unsigned char runner_out_kind(void);
bool runner_open_streams(void);
bool runner_ask(const struct call *call);
void runner_tell_start(struct stream *log, uint64_t nonce);
void runner_send(void);
struct pollfd runner_poll(void);
bool runner_turn(short revents, uint64_t nonce, struct stream streams[3], struct end *end);
bool runner_has_read(void);
bool runner_has_written(void);
void runner_close_streams(struct stream *log, uint64_t nonce);
void runner_forget_call(void);
