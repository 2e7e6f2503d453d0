// SPDX-License-Identifier: Apache-2.0
//
// The guest under a fuzzer: its unchanged units, compiled as one, on a simulated kernel (kernel.h). The
// variable QUILTFN_FUZZ_TARGET names one of the targets at the end. With -DREPLAY it is a program that
// runs through files instead, and says of each whether the guest accepted it.
//
// The results of the guest's parsers are compared with those of a second implementation of
// docs/reference/guest-protocol.md, below, which moves and keeps nothing.

#include "kernel.h"

int guest_main(int argc, char **argv);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter" // What the macros leave out.
#include "call.c"
#include "clean.c"
#include "descriptors.c"
#include "directory.c"
#include "frames.c"
#include "host.c"
#include "parent.c"
#include "prefork.c"
#include "privileges.c"
#include "processes.c"
#include "runner.c"
#include "server.c"
#include "start.c"
#include "streams.c"
#include "survivors.c"
#include "zygote.c"
#define main guest_main
#include "guest.c"
#undef main
#pragma GCC diagnostic pop
#undef _exit

static bool taken; // What the guest said of the last input.

static void check(bool holds, const char *what)
{
    if (!holds)
        wrong("%s", what);
}

static void check_within(const void *at, size_t n, const void *object, size_t size)
{
    const char *begin = object, *from = at;
    if (from >= begin && from < begin + size && n > (size_t)(begin + size - from))
        wrong("%zu bytes where %zu have room", n, (size_t)(begin + size - from));
}

// Within a struct no sanitizer sees where one array ends and the next field begins.
static void check_room(const void *at, size_t n)
{
    check_within(at, n, out.bytes, sizeof out.bytes);
    check_within(at, n, in.bytes, sizeof in.bytes);
    check_within(at, n, runner.line, sizeof runner.line);
    const char *last = (const char *)at + n - 1; // To look at all of it would take most of the time.
    if (n > 0 && (__asan_address_is_poisoned(at) || __asan_address_is_poisoned(last)))
        wrong("%zu bytes are more than there is room for", n);
}

static bool has_program(void)
{
    return special.argv[0] != NULL;
}

// The zygote is started with nothing of the version but the room for its line; before there is a
// version, with room for most.
static void judge_start(char **argv, char **env)
{
    bool prepared = !special.ready;
    size_t room = prepared ? 0 : strlen(special.argv[2]);
    room = room < 1023 ? 1023 : room;
    check(forks.wanted && (prepared || special.shell), "a zygote is started where none is wanted");
    check(place_of(forks.pid) < 0, "a second zygote is started");
    check(argv[4] == NULL && strlen(argv[3]) == room && strspn(argv[3], "#") == room &&
              strcmp(argv[0], "/bin/sh") == 0 && strcmp(argv[1], "/bin/sh") == 0 &&
              strcmp(argv[2], "-c") == 0,
          "a zygote has another command line");
    check(strcmp(env[0], "LD_PRELOAD=/x.so") == 0 && env[1] == NULL, "a zygote has other variables");
    for (size_t i = 0; i < special.env_count && !prepared; i++)
        check(!is_read_at_start(special.env[i]), "a variable comes too late for a zygote");
    check(prepared || world.raw || !is_read_at_start(forks.version),
          "a variable comes too late for a zygote");
}

static void judge_telling(const struct msghdr *message)
{
    const char *const texts[] = {special.cwd, special.argv[2]};
    const struct iovec *parts = message->msg_iov;
    check(message->msg_iovlen == 3 && parts[0].iov_len == 8, "a zygote is told something else");
    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(texts[i]) + 1;
        check(number((const unsigned char *)parts[0].iov_base + 4 * i, 4) == n &&
                  parts[i + 1].iov_len == n && memcmp(parts[i + 1].iov_base, texts[i], n) == 0,
              "a zygote is told of something else");
    }
}

static pid_t fake_vfork(int who, char **argv, char **env)
{
    check(!world.as_handler, "a process is started with the handler's ids");
    if (who == GUEST)
        judge_start(argv, env);
    check(who == GUEST || special.shell || place_of(forks.pid) < 0,
          "a zygote is there beside a handler that has none");
    if (fault(NO_PROCESS))
        return fails(EAGAIN);
    pid_t pid = new_process();
    if (pid < 0)
        return fails(EAGAIN);
    if (who == GUEST)
        begin_zygote(pid);
    else
        world.handler = pid;
    if (fault(NO_PROGRAM)) {
        could_not("execute ", special.argv[0], ENOEXEC);
        end_process(place_of(pid), 127 << 8);
    }
    return pid;
}

// ------------------------------------------------------------------------ a second reading of frames

struct view {
    const uint8_t *at;
    size_t left;
};

struct strings {
    uint32_t count;
    struct view each[STRINGS_MAX];
};

static struct strings arguments, variables;

static bool read32(struct view *from, uint32_t *value)
{
    if (from->left < 4)
        return false;
    *value = (uint32_t)number(from->at, 4);
    from->at += 4;
    from->left -= 4;
    return true;
}

static bool read_blob(struct view *from, struct view *blob)
{
    uint32_t n;
    if (!read32(from, &n) || n > from->left)
        return false;
    *blob = (struct view){from->at, n};
    from->at += n;
    from->left -= n;
    for (uint32_t i = 0; i < n; i++)
        if (blob->at[i] == 0)
            return false;
    return true;
}

static bool read_strings(struct view *from, struct strings *to, bool are_variables)
{
    if (!read32(from, &to->count) || to->count > 16384)
        return false;
    for (uint32_t i = 0; i < to->count; i++) {
        struct view *one = &to->each[i];
        if (!read_blob(from, one))
            return false;
        bool named = one->left > 0 && one->at[0] != '=' && memchr(one->at, '=', one->left) != NULL;
        if (are_variables && !named)
            return false;
    }
    return true;
}

static bool read_specialise(struct view from, struct view *cwd, uint32_t *flags)
{
    if (!read32(&from, flags) || *flags > 63 || !read_blob(&from, cwd) ||
        !read_strings(&from, &arguments, false) || !read_strings(&from, &variables, true))
        return false;
    bool resident = (*flags & 2) != 0, keeps = (*flags & 4) != 0, shell = (*flags & 8) != 0;
    bool serves = (*flags & 32) != 0;
    return from.left == 0 && arguments.count > 0 && (!keeps || resident) &&
           (!shell || (!resident && arguments.count == 3)) && (!serves || (*flags & 26) == 0);
}

// The same strings, each with its end, within the bytes they came in.
static void check_string(const char *got, const struct view *want, const uint8_t *at, size_t length)
{
    check(got >= (const char *)at && got + want->left < (const char *)at + length, "a string lies outside");
    check(memcmp(got, want->at, want->left) == 0, "a string is another one");
    check(got[want->left] == '\0', "a string does not end");
}

static void check_strings(char **got, const struct strings *want, const uint8_t *at, size_t length)
{
    for (uint32_t i = 0; i < want->count; i++) {
        check(got[i] != NULL, "a string is missing");
        check_string(got[i], &want->each[i], at, length);
    }
    check(got[want->count] == NULL, "a list does not end");
}

// ------------------------------------------------------------------------- frames out of the input

enum { BODY_MAX = CALL_MAX < 600 * 1024 ? CALL_MAX : 600 * 1024 };
static uint8_t body[BODY_MAX];

// The input is a frame, or says how to build one that is longer than an input should be: a piece
// before, one that is repeated, and a piece behind.
static struct view frame_of(const uint8_t *data, size_t size)
{
    if (size < 1 || data[0] != 'R')
        return (struct view){data, size};
    world.tape = data + 1;
    world.left = size - 1;
    size_t before = next_byte(), piece = next_byte(), times = next_byte();
    times = times << 8 | next_byte();
    size_t used = 0;
    before = least(before, world.left);
    memcpy(body, world.tape, before);
    used = before;
    world.tape += before;
    world.left -= before;
    piece = least(piece, world.left);
    for (; times > 0 && used + piece <= BODY_MAX; times--) {
        memcpy(body + used, world.tape, piece);
        used += piece;
    }
    world.tape += piece;
    world.left -= piece;
    size_t behind = least(world.left, BODY_MAX - used);
    memcpy(body + used, world.tape, behind);
    return (struct view){body, used + behind};
}

// Memory of exactly that size, so that a byte too far is one outside.
static unsigned char *own_copy(const uint8_t *at, size_t n)
{
    unsigned char *copy = malloc(n > 0 ? n : 1);
    check(copy != NULL, "there is no memory");
    memcpy(copy, at, n);
    return copy;
}

static void specialise_target(const uint8_t *data, size_t size)
{
    struct view frame = frame_of(data, size), cwd;
    uint32_t flags;
    unsigned char *copy = own_copy(frame.at, frame.left);
    bool expected = read_specialise(frame, &cwd, &flags);
    taken = parse_specialise(copy, frame.left);
    check(taken == expected, "a SPECIALISE frame is judged in two ways");
    if (taken) {
        check_string(special.cwd, &cwd, copy, frame.left);
        check_strings(special.argv, &arguments, copy, frame.left);
        check_strings(special.env, &variables, copy, frame.left);
        check(special.env_count == variables.count, "the variables are counted wrongly");
        check(special.keep_tmp == (flags & 1) && special.resident == (flags >> 1 & 1) &&
                  special.keep_state == (flags >> 2 & 1) && special.shell == (flags >> 3 & 1) &&
                  special.fresh == (flags >> 4 & 1) && special.server == (flags >> 5 & 1),
              "a flag is another one");
    }
    free(copy);
}

static void prepare_target(const uint8_t *data, size_t size)
{
    struct view frame = frame_of(data, size), from = frame;
    unsigned char *copy = own_copy(frame.at, frame.left);
    bool expected = read_strings(&from, &arguments, false) && arguments.count > 0 &&
                    read_strings(&from, &variables, true) && from.left == 0;
    taken = parse_prepare(copy, frame.left);
    check(taken == expected, "a PREPARE frame is judged in two ways");
    if (taken) {
        check_strings(special.argv, &arguments, copy, frame.left);
        check_strings(special.env, &variables, copy, frame.left);
    }
    free(copy);
}

static char some_variable[] = "OF_THE_VERSION=1";

// As many variables of the version as the first byte says; the longest list is the one that matters.
static struct view with_version(const uint8_t *data, size_t size)
{
    special.env_count = size == 0 ? 0 : data[0] == 255 ? STRINGS_MAX : data[0];
    for (size_t i = 0; i < special.env_count; i++)
        special.env[i] = some_variable;
    return size == 0 ? (struct view){data, 0} : frame_of(data + 1, size - 1);
}

static void call_target(const uint8_t *data, size_t size)
{
    struct view frame = with_version(data, size);
    struct call call;
    if (frame.left < CALL_HEAD) // serve_call looks at this first.
        return;
    uint64_t flags = number(frame.at + 12, 4), env_bytes = number(frame.at + 16, 4);
    size_t rest = frame.left - CALL_HEAD;
    unsigned char *head = own_copy(frame.at, CALL_HEAD);
    bool expected = flags <= 7 && env_bytes <= 256 * 1024 && env_bytes <= rest &&
                    ((flags & 1) != 0 || env_bytes == rest);
    taken = parse_call_head(head, frame.left, &call);
    free(head);
    check(taken == expected, "the head of a CALL frame is judged in two ways");
    if (!taken)
        return;
    check(call.nonce == number(frame.at, 8) && call.timeout_ms == number(frame.at + 8, 4) &&
              call.env_bytes == env_bytes && call.payload_bytes == rest - env_bytes &&
              call.has_payload == (flags & 1) && call.env_replaces == (flags >> 1 & 1) &&
              call.followed == (flags >> 2 & 1),
          "a field of a CALL frame is another one");
    struct view from = {frame.at + CALL_HEAD, call.env_bytes};
    unsigned char *env = own_copy(from.at, from.left);
    expected = read_strings(&from, &variables, true) && from.left == 0;
    taken = parse_call_env(env, call.env_bytes, &call);
    check(taken == expected, "the variables of a CALL frame are judged in two ways");
    if (taken) {
        check_strings(special.env + special.env_count, &variables, env, call.env_bytes);
        check(call.env == special.env + (call.env_replaces ? special.env_count : 0),
              "a call has variables of another one");
    }
    free(env);
}

// ------------------------------------------------------------------------------- a script for a shell

// Reads `export NAME='value'` as a shell does, for a name without quotes: what it finds must be the
// variable. Returns what is behind the line.
static const unsigned char *check_line(const unsigned char *at, const unsigned char *end,
                                       const struct view *variable)
{
    const uint8_t *want = variable->at, *until = want + variable->left;
    check(end - at > 7 && memcmp(at, "export ", 7) == 0, "a line exports nothing");
    at += 7;
    bool quoted = false, in_name = true;
    while (true) {
        check(at < end, "a line has no end");
        if (in_name) {
            check(want < until && *at == *want, "another name is exported");
            in_name = *want++ != '=';
            at++;
        } else if (*at == '\'') {
            quoted = !quoted;
            at++;
        } else if (!quoted && *at == '\n') {
            break;
        } else {
            check(quoted || (*at == '\\' && at + 1 < end && at[1] == '\''), "a byte is not quoted");
            at += quoted ? 0 : 1;
            check(want < until && *at == *want, "another value is exported");
            want++;
            at++;
        }
    }
    check(want == until, "a value is cut");
    return at + 1;
}

static void script_target(const uint8_t *data, size_t size)
{
    struct view frame = with_version(data, size), from = frame;
    struct call call = {.env_replaces = false};
    unsigned char *env = own_copy(frame.at, frame.left);
    bool read = read_strings(&from, &variables, true) && from.left == 0;
    check(parse_call_env(env, frame.left, &call) == read, "variables are judged in two ways");
    taken = false;
    if (read) {
        size_t most = 16;
        for (uint32_t i = 0; i < variables.count; i++)
            most += 4 * variables.each[i].left + 16;
        size_t n = prefork_write_script(&call);
        taken = n > 0;
        check(taken || most > SCRIPT_MAX, "a short script is not written");
        check(n <= SCRIPT_MAX, "a script is longer than its buffer");
        const unsigned char *at = prefork_script, *end = prefork_script + n;
        for (uint32_t i = 0; taken && i < variables.count; i++)
            at = check_line(at, end, &variables.each[i]);
        check(!taken || (end - at == 10 && memcmp(at, "exec 9<&-\n", 10) == 0),
              "a script does not close itself");
    }
    free(env);
}

// --------------------------------------------------------------------------- a block for a fork

// How many variables the version has, then whether the call's replace them, then those.
static void block_target(const uint8_t *data, size_t size)
{
    struct view frame = {data, 0};
    struct call call = {.env_replaces = size > 1 && (data[1] & 1) != 0};
    with_version(data, least(size, 1));
    if (size > 2)
        frame = frame_of(data + 2, size - 2);
    struct view from = frame;
    unsigned char *env = own_copy(frame.at, frame.left);
    bool read = read_strings(&from, &variables, true) && from.left == 0;
    check(parse_call_env(env, frame.left, &call) == read, "variables are judged in two ways");
    taken = false;
    if (read) {
        size_t version = call.env_replaces ? 0 : special.env_count * sizeof some_variable;
        size_t bytes = version, at = 4;
        bool fits = true;
        for (uint32_t i = 0; i < variables.count; i++) {
            char start[8] = "";
            memcpy(start, variables.each[i].at, least(7, variables.each[i].left));
            bytes += variables.each[i].left + 1;
            fits = fits && !(call.env_replaces && is_read_at_start(start));
        }
        fits = fits && bytes <= BLOCK_LIMIT;
        size_t n = zygote_write_block(&call);
        taken = n > 0;
        check(taken == fits, "a block is judged in two ways");
        check(!taken || (n == 4 + bytes && number(fork_block, 4) == bytes),
              "a block has another length");
        for (; taken && at < 4 + version; at += sizeof some_variable)
            check(memcmp(fork_block + at, some_variable, sizeof some_variable) == 0,
                  "a variable of the version is another one");
        for (uint32_t i = 0; taken && i < variables.count; at += variables.each[i++].left + 1)
            check_string((char *)fork_block + at, &variables.each[i], fork_block, n);
    }
    free(env);
}

// ------------------------------------------------------------------------- what runs in the zygote

bool shell_run(const uint8_t head[8], const uint8_t *bytes, size_t n); // shell_fuzz.c
void shell_is_wrong(const char *what);

void shell_is_wrong(const char *what)
{
    wrong("%s", what);
}

static void shell_target(const uint8_t *data, size_t size)
{
    uint8_t head[8] = {0};
    size_t n = least(size, sizeof head);
    memcpy(head, data, n);
    struct view frame = frame_of(data + n, size - n);
    uint8_t *copy = own_copy(frame.at, frame.left);
    taken = shell_run(head, copy, frame.left);
    free(copy);
}

// ------------------------------------------------------------------------ the server's native module

bool native_run(const char *bytes, size_t n); // native_fuzz.c
bool native_reply_run(const char *bytes, size_t n);
void native_is_wrong(const char *what);

void native_is_wrong(const char *what)
{
    wrong("%s", what);
}

static void request_target(const uint8_t *data, size_t size)
{
    taken = native_run((const char *)data, size);
}

static void reply_target(const uint8_t *data, size_t size)
{
    taken = native_reply_run((const char *)data, size);
}

// ----------------------------------------------------------------------------------- a guest's life

static bool serves_by_itself(void)
{
    return special.server;
}

static bool has_line_left(void)
{
    return runner.line_used > 0;
}

static void check_afterwards(void)
{
    check(world.exit_status == GONE || world.exit_status == BAD_FRAME ||
              world.exit_status == NOT_CLEAN,
          "it ended as it must not");
    check(runner.line_used <= LINE && runner.result_left <= CHUNK_MAX &&
              runner.start_log_used <= START_LOG && runner.ask_used <= sizeof ask &&
              runner.ask_sent <= runner.ask_used,
          "its runner's state is out of bounds");
    check(memchr(runner.told, 0, sizeof runner.told) != NULL, "what a runner told does not end");
    check(out.used <= sizeof out.bytes && in.start <= in.end && in.end <= sizeof in.bytes,
          "a buffer is out of bounds");
}

// Everything from the first byte to the guest's end, by its own main. The first byte says in which
// pieces it reads, from 64 to 71 that it has the library of a zygote (forks.h), and from 128 to 135
// that results have a limit of their own.
static void session_target(const uint8_t *data, size_t size)
{
    char *argv[] = {(char[]){"guest"}, (char[]){"tmp"}, (char[]){"shm"}, (char[]){"500"},
                    (char[]){"shell=/x.so"}, (char[]){"output=1048576,1048576"}, NULL};
    static char with_result[] = "output=1048576,1048576,50000";
    static const size_t chops[] = {SIZE_MAX, 61, 500, 1000, 4096, 65536, SIZE_MAX, SIZE_MAX};
    world.tape = data;
    world.left = size;
    uint8_t options = next_byte();
    world.chop = chops[options & 7];
    forks.wanted = options >> 3 == 8;
    world.result_max = options >> 3 == 16 ? 50000 : 0;
    if (world.result_max != 0)
        argv[5] = with_result;
    if (!forks.wanted)
        argv[4] = argv[5], argv[5] = NULL;
    world.ask = ask;
    if (setjmp(the_end) == 0)
        world.exit_status = guest_main(forks.wanted ? 6 : 5, argv);
    check_afterwards();
    taken = heard.calls > 0 || (special.server && heard.specialised);
}

// --------------------------------------------------------------------------------------- every input

// Everything that stays between two inputs, as it is when the guest begins. Arrays whose use is
// counted elsewhere are left as they are.
static void begin_again(void)
{
    runner.pid = 0;
    runner.control = runner.out = runner.log = runner.file = -1;
    runner.given[0] = runner.given[1] = runner.given[2] = -1;
    runner.streams[0].fd = runner.streams[1].fd = parent.status = parent.children =
        parent.limits = -1;
    runner.forks = runner.result_on_stdout = result_has_limit = false;
    runner.told[0] = '\0';
    runner.line_used = runner.result_left = runner.ask_used = runner.ask_sent = 0;
    runner.file_left = runner.start_log_used = 0;
    special.ready = special.keep_tmp = special.resident = false;
    special.fresh = special.shell = special.keep_state = special.server = false;
    server = 0;
    special.cwd = "";
    special.argv[0] = special.env[0] = NULL;
    special.env_count = 0;
    in.start = in.end = in.most = 0;
    in.patience = 0;
    out.used = out.open = 0;
    out.stream = 0;
    zygote_file = NULL;
    zygote.pid = 0;
    zygote.control = -1;
    zygote.unfit = zygote.told = false;
    zygote.room = 0;
    prefork.pid = 0;
    prefork.forked = false;
    prefork.input = prefork.script = -1;
    prefork_line[0] = '\0';
    childless = met_others = false;
    could_not(NULL, "", 0);
    memset(&world, 0, sizeof world);
    memset(&forks, 0, sizeof forks);
    memset(&heard, 0, sizeof heard);
    heard.clean = true;
    world.newest = 1;
    world.chop = SIZE_MAX;
    world.clock = 1000000000;
    struct queue *const queues[] = {&host, &out_pipe, &log_pipe, &lines, &answers};
    for (size_t i = 0; i < 5; i++)
        start_queue(queues[i]);
}

static const struct {
    const char *name;
    void (*run)(const uint8_t *data, size_t size);
} targets[] = {{"specialise", specialise_target},
               {"prepare", prepare_target},
               {"call", call_target},
               {"script", script_target},
               {"block", block_target},
               {"shell", shell_target},
               {"request", request_target},
               {"reply", reply_target},
               {"session", session_target}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*run)(const uint8_t *, size_t);
    const char *name = getenv("QUILTFN_FUZZ_TARGET");
    for (size_t i = 0; run == NULL && i < sizeof targets / sizeof *targets; i++)
        if (name != NULL && strcmp(name, targets[i].name) == 0)
            run = targets[i].run;
    if (run == NULL)
        wrong("QUILTFN_FUZZ_TARGET names no target");
    begin_again();
    taken = false;
    run(data, size);
    return 0;
}

#ifdef REPLAY
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL)
            return 1;
        static uint8_t bytes[1024 * 1024];
        size_t n = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        // Said before, so that the last line names what the program ended on.
        printf("%s", argv[i]);
        fflush(stdout);
        uint8_t *copy = own_copy(bytes, n);
        LLVMFuzzerTestOneInput(copy, n);
        free(copy);
        puts(taken ? " taken" : " refused");
    }
    return 0;
}
#endif
