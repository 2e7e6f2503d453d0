// The floor under every shell call: posix_spawn of the handler's shell, its output read to the end,
// its status awaited. Nothing else. Usage: spawn COUNT COMMAND [PAUSE_US]; prints one duration a
// line, in ns. With a pause the processor sleeps between two, as it does between paced calls.
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4)
        return 2;
    useconds_t pause = argc == 4 ? (useconds_t)atoi(argv[3]) : 0;
    char *command[] = {"/bin/sh", "-c", argv[2], NULL};
    int count = atoi(argv[1]);
    for (int i = 0; i < count; i++) {
        if (pause > 0)
            usleep(pause);
        long long before = now_ns();
        int out[2], status;
        pid_t pid;
        char bytes[4096];
        posix_spawn_file_actions_t actions;
        if (pipe2(out, 02000000 /* O_CLOEXEC */) != 0)
            return 1;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, out[1], 1);
        if (posix_spawn(&pid, command[0], &actions, NULL, command, environ) != 0)
            return 1;
        posix_spawn_file_actions_destroy(&actions);
        close(out[1]);
        while (read(out[0], bytes, sizeof bytes) > 0) {
        }
        close(out[0]);
        if (waitpid(pid, &status, 0) != pid || status != 0)
            return 1;
        printf("%lld\n", now_ns() - before);
    }
    return 0;
}
