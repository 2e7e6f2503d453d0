// A caller that pauses before each call, on one connection: paced PORT PATH COUNT PAUSE_US; prints
// one duration a line, in ns. In C, because a slower client would be a large part of the figure.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        return 1;
    char request[1024], answer[65536];
    int length = snprintf(request, sizeof request,
                          "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nContent-Type: application/json"
                          "\r\nContent-Length: 2\r\n\r\n{}",
                          argv[2], argv[1]);
    for (int i = 0, count = atoi(argv[3]); i < count; i++) {
        usleep((useconds_t)atoi(argv[4]));
        long long before = now_ns();
        if (write(fd, request, (size_t)length) != length)
            return 1;
        size_t have = 0;
        for (;;) {
            ssize_t n = read(fd, answer + have, sizeof answer - 1 - have);
            if (n <= 0)
                return 1;
            have += (size_t)n;
            answer[have] = '\0';
            char *end = strstr(answer, "\r\n\r\n"), *size = strcasestr(answer, "content-length: ");
            if (end != NULL && size != NULL &&
                have >= (size_t)(end + 4 - answer) + strtoul(size + 16, NULL, 10))
                break;
        }
        long long took = now_ns() - before;
        if (strncmp(answer, "HTTP/1.1 200", 12) != 0 || strstr(answer, "\"success\"") == NULL)
            return 1;
        printf("%lld\n", took);
    }
    return 0;
}
