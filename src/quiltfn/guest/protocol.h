// SPDX-License-Identifier: Apache-2.0
//
// The constants of the protocol between guest and host, and the encoding of numbers.
// docs/reference/guest-protocol.md describes the frames.

#pragma once

#include <stdint.h>

enum { PROTOCOL_VERSION = 2, CONTROL = 3 };

enum {
    HEADER = 8,
    NONCE = 8,
    END_HEAD = 40,                       // nonce, kind, code, dropped bytes of three streams
    CALL_HEAD = 20,                      // nonce, timeout, flags, env_bytes
    SPECIALISE_MAX = 256 * 1024,         // payload of a SPECIALISE frame
    ENV_MAX = 256 * 1024,                // environment of a CALL frame
    CALL_MAX = 8 * 1024 * 1024 + 256 * 1024,
    STRINGS_MAX = 16 * 1024,             // arguments, and variables, of one frame
    CHUNK_MAX = 64 * 1024,               // bytes of output in one frame: the capacity of a pipe
    TEXT_MAX = 512,                      // a sentence in a frame
    LAST_WORDS = 4096,                   // the last output of a runner that did not start
};

static const uint32_t KEEP_TMP = 1, RESIDENT = 2, KEEP_STATE = 4; // of SPECIALISE,
static const uint32_t SHELL = 8, FRESH = 16, SERVER = 32;         // too
static const uint32_t HAS_PAYLOAD = 1, ENV_REPLACES = 2, FOLLOWED = 4; // of CALL
enum exit_kind { EXITED = 0, KILLED = 1, DEADLINE = 2, NOT_STARTED = 3 };

// The guest's exit status: its only error message when it gives up.
enum { GONE = 0, BAD_START = 1, BAD_FRAME = 2, NOT_CLEAN = 3, BROKEN = 4 };

static inline uint32_t get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t get64(const unsigned char *p)
{
    return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

static inline void put32(unsigned char *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(value >> (8 * i));
}

static inline void put64(unsigned char *p, uint64_t value)
{
    put32(p, (uint32_t)value);
    put32(p + 4, (uint32_t)(value >> 32));
}
