// SPDX-License-Identifier: Apache-2.0
//
// Frames: understanding those of the host, and the guest's two buffers, one for each direction. The
// parsing does no I/O and is what a fuzzer calls. A part of guest.c, not a header for others.

// ------------------------------------------------------------- understanding frames (no I/O here)

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

// A blob becomes a C string where it lies: it moves over its own length, and the four bytes that
// frees at its end have room for the NUL. So execve needs no second copy. A NUL inside is refused:
// the host and the kernel would not agree about where the string ends.
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

// Reads a counted list of strings into `to`, which holds STRINGS_MAX of them and a NULL.
static bool take_strings(struct bytes *from, char **to, size_t *count, bool variables)
{
    uint32_t n;
    if (!take32(from, &n) || n > STRINGS_MAX)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        to[i] = take_string(from);
        if (to[i] == NULL)
            return false;
        // "=x" and "x" are not variables; a program may read either as it likes.
        if (variables && (to[i][0] == '=' || strchr(to[i], '=') == NULL))
            return false;
    }
    to[n] = NULL;
    *count = n;
    return true;
}

// What the sandbox was specialised for. The strings lie in special_bytes for good.
static struct {
    bool ready;
    bool keep_tmp;
    bool resident;   // argv is a runner, started before the first call.
    bool fresh;      // A runner that was prepared is of no use for it.
    bool shell;      // argv is a shell, -c and a command line, so that it can be started ahead.
    bool keep_state; // It may serve call after call; else nothing of a call may be left in it.
    const char *cwd;
    char *argv[STRINGS_MAX + 1];
    // The version's variables, then those of the call in hand: a call whose variables replace all
    // is given the tail of the same array, so that neither case copies anything.
    char *env[2 * STRINGS_MAX + 1];
    size_t env_count;
} special;

static unsigned char special_bytes[SPECIALISE_MAX];

static bool parse_specialise(unsigned char *at, size_t length)
{
    struct bytes from = {at, length};
    uint32_t flags;
    size_t argc;
    if (!take32(&from, &flags) || (flags & ~(KEEP_TMP | RESIDENT | KEEP_STATE | SHELL | FRESH)) != 0)
        return false;
    if (((flags & KEEP_STATE) != 0 && (flags & RESIDENT) == 0) ||
        ((flags & SHELL) != 0 && (flags & RESIDENT) != 0))
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
    special.fresh = (flags & FRESH) != 0;
    if (special.shell && argc != 3)
        return false;
    special.cwd = cwd;
    return true;
}

// What a runner is started with before anybody knows what for; the strings lie in special_bytes
// until the sandbox is specialised.
static bool parse_prepare(unsigned char *at, size_t length)
{
    struct bytes from = {at, length};
    size_t argc;
    return take_strings(&from, special.argv, &argc, false) && argc > 0 &&
           take_strings(&from, special.env, &special.env_count, true) && from.left == 0;
}

struct call {
    uint64_t nonce;
    uint32_t timeout_ms;
    bool has_payload;
    bool env_replaces;
    size_t env_bytes;
    size_t payload_bytes;
    char **env;
};

static bool parse_call_head(const unsigned char *at, size_t frame_length, struct call *call)
{
    uint32_t flags = get32(at + 12);
    call->nonce = get64(at);
    call->timeout_ms = get32(at + 8);
    call->has_payload = (flags & HAS_PAYLOAD) != 0;
    call->env_replaces = (flags & ENV_REPLACES) != 0;
    call->env_bytes = get32(at + 16);
    if ((flags & ~(HAS_PAYLOAD | ENV_REPLACES)) != 0 || call->env_bytes > ENV_MAX)
        return false;
    if (call->env_bytes > frame_length - CALL_HEAD)
        return false;
    call->payload_bytes = frame_length - CALL_HEAD - call->env_bytes;
    return call->has_payload || call->payload_bytes == 0;
}

static unsigned char call_env[ENV_MAX];

static bool parse_call_env(unsigned char *at, size_t length, struct call *call)
{
    struct bytes from = {at, length};
    char **tail = special.env + special.env_count;
    size_t count;
    if (!take_strings(&from, tail, &count, true) || from.left != 0)
        return false;
    call->env = call->env_replaces ? tail : special.env;
    return true;
}

// -------------------------------------------------------------------------- reading from the host

// One buffered reader: a small call is one recv. It may read past a frame, and nothing is lost by
// that, for the host may not send anything between a call and its CLEAN: see expect_silence.
static struct {
    unsigned char bytes[CHUNK_MAX];
    size_t start, end, most; // most: how far it has been filled since the last wipe.
} in;

static size_t in_some(unsigned char **at, size_t most)
{
    if (in.start == in.end) {
        ssize_t n;
        do
            n = recv(CONTROL, in.bytes, sizeof in.bytes, 0);
        while (n < 0 && errno == EINTR);
        // ECONNRESET is an end as well: the host went away with frames of ours unread.
        if (n <= 0)
            _exit(n == 0 || errno == ECONNRESET ? GONE : BROKEN);
        in.start = 0;
        in.end = (size_t)n;
        if (in.end > in.most)
            in.most = in.end;
    }
    size_t n = in.end - in.start < most ? in.end - in.start : most;
    *at = in.bytes + in.start;
    in.start += n;
    return n;
}

static void in_exactly(unsigned char *to, size_t length)
{
    while (length > 0) {
        unsigned char *at;
        size_t n = in_some(&at, length);
        memcpy(to, at, n);
        to += n;
        length -= n;
    }
}

static void expect_silence(void)
{
    if (in.start != in.end)
        _exit(BAD_FRAME);
}

// ---------------------------------------------------------------------------- writing to the host

// Frames are laid one behind the other and sent together: output, end and clean of a short call
// are one send. Only the last may still be growing: it lies at `open`, and `stream` is its kind,
// or 0 when none is. `since` is when the buffer last was empty.
static struct {
    unsigned char bytes[HEADER + NONCE + CHUNK_MAX + 4 * 1024];
    size_t used, open;
    unsigned char stream;
    uint64_t since;
} out;

static void out_seal(void)
{
    if (out.stream != 0)
        put32(out.bytes + out.open + 4, (uint32_t)(out.used - out.open - HEADER));
    out.stream = 0;
}

static void out_send(void)
{
    out_seal();
    size_t sent = 0;
    while (sent < out.used) {
        // Blocking on purpose: a host that does not read is a host that has its own, outer
        // deadline. MSG_NOSIGNAL, so that SIGPIPE need not be ignored and stays default for execve.
        ssize_t n = send(CONTROL, out.bytes + sent, out.used - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            _exit(errno == EPIPE || errno == ECONNRESET ? GONE : BROKEN);
        sent += (size_t)n;
    }
    out.used = 0;
}

// Begins a frame whose payload has `length` bytes and returns where they go.
static unsigned char *out_frame(unsigned char kind, size_t length)
{
    out_seal();
    if (sizeof out.bytes - out.used < HEADER + length)
        out_send();
    unsigned char *at = out.bytes + out.used;
    put32(at, kind);
    put32(at + 4, (uint32_t)length);
    out.used += HEADER + length;
    return at + HEADER;
}
