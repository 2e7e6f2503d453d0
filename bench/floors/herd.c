// Many callers at once: herd PORT PATH COUNT SPREAD_US. Opens COUNT connections, then sends a call on
// each, spread over that time, and reads the answers. Prints as JSON when the first and the last
// answer came, in ms after the first call, and how they were answered.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1000 };

static long long now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
    static struct pollfd polled[MOST];
    if (argc != 5 || atoi(argv[3]) > MOST)
        return 2;
    int count = atoi(argv[3]), sent = 0, answered = 0, full = 0, other = 0;
    long long spread = atoll(argv[4]), first = 0, last = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    for (int i = 0; i < count; i++) {
        polled[i] = (struct pollfd){.fd = socket(AF_INET, SOCK_STREAM, 0), .events = POLLIN};
        if (connect(polled[i].fd, (struct sockaddr *)&to, sizeof to) != 0)
            return 1;
    }
    char request[1024], answer[65536];
    int length = snprintf(request, sizeof request,
                          "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nContent-Type: application/json"
                          "\r\nContent-Length: 2\r\n\r\n{}",
                          argv[2], argv[1]);
    sleep(1); // The server has accepted all connections by now.
    long long began = now_us();
    while (answered + full + other < count) {
        long long now = now_us() - began;
        while (sent < count && now >= spread * sent / count)
            if (write(polled[sent++].fd, request, (size_t)length) != length)
                return 1;
        if (now > 60 * 1000000LL)
            return 1;
        if (poll(polled, (nfds_t)count, 1) < 0)
            return 1;
        for (int i = 0; i < count; i++) {
            if ((polled[i].revents & POLLIN) == 0)
                continue;
            ssize_t n = read(polled[i].fd, answer, sizeof answer - 1);
            answer[n > 0 ? n : 0] = '\0';
            last = now_us() - began;
            first = first == 0 ? last : first;
            if (strncmp(answer, "HTTP/1.1 200", 12) == 0)
                answered++;
            else if (strstr(answer, "CAPACITY_FULL") != NULL)
                full++;
            else
                other++;
            close(polled[i].fd);
            polled[i].fd = -1;
        }
    }
    printf("{\"first_answer_ms\": %.3f, \"last_answer_ms\": %.3f, \"answered\": %d, "
           "\"capacity_full\": %d, \"other\": %d}\n",
           first / 1000.0, last / 1000.0, answered, full, other);
    return 0;
}
