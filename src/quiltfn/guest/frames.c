// SPDX-License-Identifier: Apache-2.0
//
// Parses the host's frames in place.

#include "frames.h"

#include <string.h>

struct special special;
unsigned char special_bytes[SPECIALISE_MAX];
unsigned char call_env[ENV_MAX];

struct bytes {
    unsigned char *at;
    size_t left;
};

static bool take32(struct bytes *from, uint32_t *value)
{
    if (from->left < 4)
        return false;
    *value = get32(from->at);
    from->at += 4;
    from->left -= 4;
    return true;
}

// Turns a blob into a C string in place: moves its bytes over its length field, which leaves room
// for the NUL. So execve needs no copy. Refuses a blob with a NUL inside: host and kernel would
// disagree about the end of the string.
static char *take_string(struct bytes *from)
{
    uint32_t length;
    if (!take32(from, &length) || length > from->left)
        return NULL;
    if (memchr(from->at, 0, length) != NULL)
        return NULL;
    char *string = (char *)from->at - 4;
    memmove(string, from->at, length);
    string[length] = '\0';
    from->at += length;
    from->left -= length;
    return string;
}

// Reads a counted list of strings into `to`, which has room for STRINGS_MAX strings and a NULL.
static bool take_strings(struct bytes *from, char **to, size_t *count, bool variables)
{
    uint32_t n;
    if (!take32(from, &n) || n > STRINGS_MAX)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        to[i] = take_string(from);
        if (to[i] == NULL)
            return false;
        // "=x" and "x" are not variables; programs differ in how they read them.
        if (variables && (to[i][0] == '=' || strchr(to[i], '=') == NULL))
            return false;
    }
    to[n] = NULL;
    *count = n;
    return true;
}

bool parse_specialise(unsigned char *at, size_t length)
{
    struct bytes from = {at, length};
    uint32_t flags;
    size_t argc;
    if (!take32(&from, &flags) || (flags & ~(KEEP_TMP | RESIDENT | KEEP_STATE | SHELL | FRESH | SERVER)) != 0)
        return false;
    if (((flags & KEEP_STATE) != 0 && (flags & RESIDENT) == 0) ||
        ((flags & SHELL) != 0 && (flags & RESIDENT) != 0) ||
        ((flags & SERVER) != 0 && (flags & (RESIDENT | SHELL | FRESH)) != 0))
        return false;
    char *cwd = take_string(&from);
    if (cwd == NULL || !take_strings(&from, special.argv, &argc, false) || argc == 0)
        return false;
    if (!take_strings(&from, special.env, &special.env_count, true) || from.left != 0)
        return false;
    special.keep_tmp = (flags & KEEP_TMP) != 0;
    special.resident = (flags & RESIDENT) != 0;
    special.keep_state = (flags & KEEP_STATE) != 0;
    special.shell = (flags & SHELL) != 0;
    special.server = (flags & SERVER) != 0;
    special.fresh = (flags & FRESH) != 0;
    if (special.shell && argc != 3)
        return false;
    special.cwd = cwd;
    return true;
}

// Parses arguments and variables of a runner that starts before the version is known. The strings
// stay in special_bytes until the sandbox is specialised.
bool parse_prepare(unsigned char *at, size_t length)
{
    struct bytes from = {at, length};
    size_t argc;
    return take_strings(&from, special.argv, &argc, false) && argc > 0 &&
           take_strings(&from, special.env, &special.env_count, true) && from.left == 0;
}

bool parse_call_head(const unsigned char *at, size_t frame_length, struct call *call)
{
    uint32_t flags = get32(at + 12);
    call->nonce = get64(at);
    call->timeout_ms = get32(at + 8);
    call->has_payload = (flags & HAS_PAYLOAD) != 0;
    call->env_replaces = (flags & ENV_REPLACES) != 0;
    call->followed = (flags & FOLLOWED) != 0;
    call->env_bytes = get32(at + 16);
    if ((flags & ~(HAS_PAYLOAD | ENV_REPLACES | FOLLOWED)) != 0 || call->env_bytes > ENV_MAX)
        return false;
    if (call->env_bytes > frame_length - CALL_HEAD)
        return false;
    call->payload_bytes = frame_length - CALL_HEAD - call->env_bytes;
    return call->has_payload || call->payload_bytes == 0;
}

bool parse_call_env(unsigned char *at, size_t length, struct call *call)
{
    struct bytes from = {at, length};
    char **tail = special.env + special.env_count;
    size_t count;
    if (!take_strings(&from, tail, &count, true) || from.left != 0)
        return false;
    call->env = call->env_replaces ? tail : special.env;
    return true;
}
