// SPDX-License-Identifier: Apache-2.0
//
// A simulated zygote. The tape says what it answers, when it ends and what its forks do. What the guest
// tells them is checked. A part of kernel.h, not a header for others.

enum { BLOCK_LIMIT = 60 * 1024, CALLS_MAX = 512, TEXTS_MAX = 6 };

static struct {
    bool wanted;  // The guest is told of the library.
    pid_t pid;    // Of the one that was started last.
    bool shut;    // Nobody has the other end of its socket.
    bool told;    // It knows what it is to be for.
    bool patient; // The guest does not wait for it without an end.
    uint8_t plan; // How it begins.
    pid_t owed, newest, before; // Its forks; `owed`: the guest was not told of that one.
    const char *version;        // The one variable of the version.
    struct {
        uint8_t flags, size;
    } calls[CALLS_MAX]; // What the host sent.
} forks;

static char large[BLOCK_LIMIT + 64];

static bool is_read_at_start(const char *variable)
{
    return strncmp(variable, "LD_", 3) == 0 || strncmp(variable, "GLIBC_", 6) == 0 ||
           strncmp(variable, "MALLOC_", 7) == 0;
}

static const char *text_of_version(uint8_t flags)
{
    static const char *const texts[] = {"A=b",  "LD_LIBRARY_PATH=/x", "GLIBC_TUNABLES=a",
                                        "LD=b", "MALLOC_ARENA_MAX=1", "XLD_A=b",
                                        "ld_=", "MALLOC=b"};
    return texts[forks.wanted ? flags >> 5 : 0];
}

// The variables that the host sends with a call; a large one is about as long as a block may be.
static size_t texts_of_call(uint8_t flags, uint8_t size, const char *to[TEXTS_MAX])
{
    static const char *const texts[] = {"Q=1", "QUOTE=it's", "EMPTY="};
    size_t n = 0;
    for (; n < (flags >> 2) % 4U; n++)
        to[n] = texts[n];
    if (forks.wanted && (flags & 32) != 0)
        to[n++] = "LD_PRELOAD=/x";
    if (forks.wanted && (flags & 16) != 0) {
        size_t length = BLOCK_LIMIT - 16 + (size >> 3);
        memset(large, 'x', length);
        memcpy(large, "L=", 2);
        large[length] = '\0';
        to[n++] = large;
    }
    return n;
}

// ---------------------------------------------------------------------------- what a fork is told

static int place_of_fork(unsigned script)
{
    for (int i = 0; i < PROCESS_MAX; i++)
        if (world.processes[i].pid != 0 && script != 0 && world.processes[i].script == script)
            return i;
    return -1;
}

// All the bytes, where the host sent nothing but its own frames; their form, where it did.
static void judge_block(const unsigned char *bytes, size_t n)
{
    if (n < 4 || n > 4 + BLOCK_LIMIT || number(bytes, 4) != n - 4 || (n > 4 && bytes[n - 1] != 0))
        wrong("a fork is told %zu bytes", n);
    uint64_t nonce = heard.calls + 1;
    if (world.raw || nonce > world.nonce || nonce >= CALLS_MAX)
        return;
    uint8_t flags = forks.calls[nonce].flags;
    const char *texts[TEXTS_MAX];
    size_t count = texts_of_call(flags, forks.calls[nonce].size, texts), at = 4;
    for (size_t i = 0; i <= count; i++) {
        bool replaces = (flags & 2) != 0;
        const char *text = i == 0 ? forks.version : texts[i - 1];
        if (i == 0 && replaces)
            continue;
        size_t length = strlen(text) + 1;
        if (replaces && is_read_at_start(text))
            wrong("a fork is told %s", text);
        if (length > n - at || memcmp(bytes + at, text, length) != 0)
            wrong("a fork is not told %.40s", text);
        at += length;
    }
    if (at != n)
        wrong("a fork is told %zu bytes too many", n - at);
}

static void tell_fork(int place, const unsigned char *bytes, size_t n)
{
    if (world.processes[place].told)
        wrong("a fork is told of a second call");
    world.processes[place].told = true;
    judge_block(bytes, n);
}

// Before the guest says that a call is over; the next one's is made behind that.
static void judge_forks(void)
{
    for (int i = 0; i < PROCESS_MAX; i++)
        if (world.processes[i].pid != 0 && world.processes[i].script != 0)
            wrong("a fork outlives its call");
}

// -------------------------------------------------------------------------------- what it does itself

static void end_zygote(int status)
{
    end_process(place_of(forks.pid), status);
}

static void answer(pid_t pid, size_t bytes)
{
    int32_t told = pid;
    put(&answers, &told, bytes);
}

static pid_t new_fork(unsigned script)
{
    pid_t pid = new_process();
    if (pid < 0)
        return -1;
    world.processes[place_of(pid)].script = script;
    world.handler = pid;
    forks.before = forks.newest;
    forks.newest = pid;
    return pid;
}

static ssize_t fork_as_told(unsigned script)
{
    uint8_t plan = next_byte(), how = plan & 15;
    if (how == 13) {
        end_zygote(SIGKILL);
        return fails(EPIPE);
    }
    pid_t pid = how == 4 ? 0 : how == 5 || how == 6 ? -1 : new_fork(script);
    switch (how) {
    case 1: forks.owed = pid; break;
    case 2:
    case 3: answer(pid, 2); break;
    case 6:
    case 7: break;
    case 10: answer(forks.pid, 4); break;
    case 11: answer(1000, 4); break;
    case 12: answer(1, 4); break;
    case 15: answer(forks.before, 4); break;
    default: answer(pid, 4); break;
    }
    if (how == 9)
        answer(pid, 4);
    if (how == 14)
        end_process(place_of(pid), (plan >> 4) << 8);
    if (how == 3 || how == 6 || how == 7 || how == 8)
        end_zygote(plan >> 4);
    return 1;
}

static void answer_late(void)
{
    if (forks.owed != 0 && !forks.shut)
        answer(forks.owed, 4);
    forks.owed = 0;
}

// ------------------------------------------------------------------------------ the guest's calls to it

static void judge_telling(const struct msghdr *message); // That it is told what it is to be for.

static ssize_t tell_zygote(const struct msghdr *message)
{
    ssize_t whole = 0;
    if (forks.told)
        wrong("the zygote is told twice what it is for");
    judge_telling(message);
    for (size_t i = 0; i < message->msg_iovlen; i++)
        whole += (ssize_t)message->msg_iov[i].iov_len;
    forks.told = true;
    if ((forks.plan & 3) == 1)
        end_zygote(0); // It did not load the library.
    return forks.shut ? fails(EPIPE) : (forks.plan & 3) == 2 ? whole - 1 : whole;
}

static ssize_t to_runner(const unsigned char *bytes, size_t n);

// A call to a runner that forks, with the streams of it alone.
static ssize_t tell_runner(const struct msghdr *message, int flags)
{
    const struct cmsghdr *head = CMSG_FIRSTHDR(message);
    int fds[3];
    if (flags != (MSG_NOSIGNAL | MSG_DONTWAIT) || world.as_handler || message->msg_iovlen != 1 ||
        message->msg_iov[0].iov_base != world.ask || head == NULL ||
        head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof fds))
        wrong("a runner is sent other rights, or not with a call");
    memcpy(fds, CMSG_DATA(head), sizeof fds);
    for (int i = 0; i < 3; i++)
        if (what_is(fds[i]) != (i == 0 ? PLAIN : OTHER_END))
            wrong("stream %d of a call is another one", i);
    size_t before = world.unread;
    ssize_t result = to_runner(world.ask, message->msg_iov[0].iov_len);
    return result < 0 ? result : (ssize_t)(world.unread - before);
}

static ssize_t fake_send(int fd, const void *bytes, size_t n, int flags);

// Frames, the first byte of which brings a descriptor.
static ssize_t tell_host(const struct msghdr *message, int flags)
{
    const struct cmsghdr *head = CMSG_FIRSTHDR(message);
    int given;
    if (!serves_by_itself() || message->msg_iovlen != 1 || head->cmsg_level != SOL_SOCKET ||
        head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof given))
        wrong("the host is sent other rights");
    memcpy(&given, CMSG_DATA(head), sizeof given);
    if (what_is(given) != PLAIN && what_is(given) != STDOUT)
        wrong("the host is given descriptor %d", given);
    return fake_send(HOST_FD, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len, flags);
}

static ssize_t fake_sendmsg(int fd, const struct msghdr *message, int flags)
{
    if (fd == HOST_FD)
        return tell_host(message, flags);
    if (what_is(fd) == LINES)
        return tell_runner(message, flags);
    if (what_is(fd) != ZYGOTE || flags != MSG_NOSIGNAL || world.as_handler)
        wrong("a message that a zygote is not sent");
    if (message->msg_controllen == 0)
        return tell_zygote(message);
    const struct cmsghdr *head = CMSG_FIRSTHDR(message);
    int fds[4];
    if (!forks.told || !forks.patient || message->msg_iovlen != 1 ||
        message->msg_iov[0].iov_len != 1 || *(char *)message->msg_iov[0].iov_base != 'f')
        wrong("a zygote is asked for something else than a fork");
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS ||
        head->cmsg_len != CMSG_LEN(sizeof fds) || CMSG_NXTHDR((struct msghdr *)(uintptr_t)message,
                                                             (struct cmsghdr *)(uintptr_t)head))
        wrong("a zygote is sent other rights");
    memcpy(fds, CMSG_DATA(head), sizeof fds);
    for (int i = 0; i < 4; i++)
        if (what_is(fds[i]) != (i == 0 ? PLAIN : OTHER_END) ||
            (world.fds[fds[i]].turn != 0) != (i == 3))
            wrong("descriptor %d of a fork is another one", i);
    return forks.shut ? fails(EPIPE) : fork_as_told(world.fds[fds[3]].turn);
}

static int fake_setsockopt(int fd, int what, const void *to)
{
    struct timeval patience;
    memcpy(&patience, to, sizeof patience);
    if (fd == HOST_FD && what == SO_RCVTIMEO) {
        bool has_fork = forks.newest != 0 && place_of(forks.newest) >= 0;
        bool has_zygote = forks.pid != 0 && place_of(forks.pid) >= 0;
        if ((patience.tv_sec != 2 && has_fork) || (patience.tv_sec == 0 && has_zygote))
            wrong("an idle sandbox keeps its shell");
        world.patience = patience.tv_sec;
        return 0;
    }
    if (what_is(fd) != ZYGOTE || what != SO_RCVTIMEO || patience.tv_sec < 1)
        wrong("another option of a socket is set");
    if ((forks.plan & 3) == 3)
        return fails(ENOPROTOOPT);
    forks.patient = true;
    return 0;
}

static bool next_event(void);

// Waits until all is there, it has ended, or two seconds are over.
static ssize_t recv_answer(void *to, size_t n, int flags)
{
    if (flags != MSG_WAITALL || !forks.patient)
        wrong("it waits for a zygote without an end");
    uint64_t until = world.clock + UINT64_C(2000000000);
    while (answers.end - answers.start < n && !forks.shut && world.clock < until)
        if (!next_event())
            world.clock = until;
    size_t there = least(n, answers.end - answers.start);
    memcpy(to, answers.bytes + answers.start, there);
    answers.start += there;
    return there > 0 || forks.shut ? (ssize_t)there : fails(EAGAIN);
}

static int zygote_socket(int pair[2])
{
    start_queue(&answers);
    forks.told = forks.patient = false;
    forks.shut = true;
    forks.owed = 0;
    pair[0] = new_fd(ZYGOTE, 0);
    pair[1] = new_fd(OTHER_END, 0);
    return 0;
}

static void begin_zygote(pid_t pid)
{
    forks.pid = pid;
    forks.shut = false;
    forks.plan = next_byte();
}
