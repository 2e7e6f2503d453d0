// SPDX-License-Identifier: Apache-2.0
//
// Parsing the host's frames. It does no I/O, so a fuzzer can call it.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

// The version for which the sandbox was specialised. The strings stay in special_bytes.
extern struct special {
    bool ready;
    bool keep_tmp;
    bool resident;   // argv is a runner, started before the first invocation.
    bool fresh;      // A prepared runner must not be used.
    bool shell;      // argv is a shell, -c and a command line, so that it can be preforked.
    bool server;     // argv is a program that serves requests itself.
    bool keep_state; // A runner may keep state from one invocation to the next.
    const char *cwd;
    char *argv[STRINGS_MAX + 1];
    // The version's variables, then those of the current invocation. If the latter replace all, the
    // handler gets only the tail of this array, so nothing is copied in either case.
    char *env[2 * STRINGS_MAX + 1];
    size_t env_count;
} special;

struct call {
    uint64_t nonce;
    uint32_t timeout_ms;
    bool has_payload;
    bool env_replaces;
    bool followed;
    size_t env_bytes;
    size_t payload_bytes;
    char **env;
};

// The buffer for the payload of a SPECIALISE or PREPARE frame; parsed strings stay in it. Likewise
// for an invocation's variables.
extern unsigned char special_bytes[SPECIALISE_MAX];
extern unsigned char call_env[ENV_MAX];

// These return false for a violation of the protocol. Values that they have set are then invalid.
bool parse_specialise(unsigned char *at, size_t length);
bool parse_prepare(unsigned char *at, size_t length);
bool parse_call_head(const unsigned char *at, size_t frame_length, struct call *call);
bool parse_call_env(unsigned char *at, size_t length, struct call *call);
