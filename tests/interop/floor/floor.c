/*
 * floor: a minimal plugin, as the lower bound of a benchmark.
 *
 *     floor SOCKET IDX NAME [FILE]
 *
 * Registers, subscribes to CreateContainer alone, and answers every CreateContainer with the encoded
 * CreateContainerResponse in FILE (an empty one by default) without looking at the request. Requests may
 * be of any size and arrive in any frames; a reply is at most 4,000 bytes, so that it is one frame.
 * Reports events as lines of JSON, as control.go describes; ends with its standard input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    FRAME_HEADER = 8,    /* connection id, length */
    MESSAGE_HEADER = 10, /* length, stream id, type, flags */
    PLUGIN_SERVICE = 1,
    RUNTIME_SERVICE = 2,
    REQUEST = 1,
    RESPONSE = 2,
    MAX_MESSAGE = 4 << 20,
    MAX_REPLY = 4000,
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void put32(uint8_t *at, uint32_t value)
{
    value = htonl(value);
    memcpy(at, &value, 4);
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, 4);
    return ntohl(value);
}

/* Appends one length-delimited protobuf field with a number below 16; returns its encoded size. */
static size_t put_field(uint8_t *at, int number, const void *data, size_t length)
{
    size_t n = 0;
    size_t rest = length;
    at[n++] = (uint8_t)(number << 3 | 2);
    for (; rest > 127; rest >>= 7)
        at[n++] = (uint8_t)(rest | 128);
    at[n++] = (uint8_t)rest;
    memcpy(at + n, data, length);
    return n + length;
}

/* Fills in both headers before a body of the given length; returns the total. */
static size_t frame(uint8_t *out, uint32_t conn, uint32_t stream, uint8_t type, size_t length)
{
    put32(out, conn);
    put32(out + 4, (uint32_t)(MESSAGE_HEADER + length));
    put32(out + 8, (uint32_t)length);
    put32(out + 12, stream);
    out[16] = type;
    out[17] = 0;
    return FRAME_HEADER + MESSAGE_HEADER + length;
}

/* A complete answer, except for its stream id. */
struct answer {
    uint8_t bytes[FRAME_HEADER + MESSAGE_HEADER + MAX_REPLY + 16];
    size_t length;
};

static void make_answer(struct answer *answer, const void *payload, size_t length)
{
    size_t body = 0;
    if (length > 0)
        body = put_field(answer->bytes + FRAME_HEADER + MESSAGE_HEADER, 2, payload, length);
    answer->length = frame(answer->bytes, PLUGIN_SERVICE, 0, RESPONSE, body);
}

static struct answer empty, configured, created;

static void send_all(int fd, const uint8_t *data, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, data, length);
        if (n <= 0)
            die("write");
        data += n;
        length -= (size_t)n;
    }
}

static void register_plugin(int fd, const char *idx, const char *name)
{
    static const char service[] = "nri.pkg.api.v1alpha1.Runtime", method[] = "RegisterPlugin";
    uint8_t request[256], out[512], *body = out + FRAME_HEADER + MESSAGE_HEADER;
    size_t n, length;

    n = put_field(request, 1, name, strlen(name));
    n += put_field(request + n, 2, idx, strlen(idx));
    length = put_field(body, 1, service, sizeof service - 1);
    length += put_field(body + length, 2, method, sizeof method - 1);
    length += put_field(body + length, 3, request, n);
    send_all(fd, out, frame(out, RUNTIME_SERVICE, 1, REQUEST, length));
}

/* The envelope begins with the service (field 1) and the method (field 2), both shorter than 128. */
static int is_method(const uint8_t *body, size_t length, const char *name)
{
    size_t at = 2, n = strlen(name);
    if (length < 2)
        return 0;
    at += body[1];
    return length >= at + 2 + n && body[at + 1] == n && memcmp(body + at + 2, name, n) == 0;
}

static void serve(int fd, const uint8_t *message)
{
    const uint8_t *body = message + MESSAGE_HEADER;
    uint32_t length = get32(message);
    struct answer *answer = &empty;
    int synchronized = 0;

    if (is_method(body, length, "CreateContainer"))
        answer = &created;
    else if (is_method(body, length, "Configure"))
        answer = &configured;
    else
        synchronized = is_method(body, length, "Synchronize");
    memcpy(answer->bytes + 12, message + 4, 4);
    send_all(fd, answer->bytes, answer->length);
    if (synchronized) {
        puts("{\"event\": \"synchronize\", \"data\": null}");
        fflush(stdout);
    }
}

/* Reads until the buffer holds at least `want` bytes. */
static void fill(int fd, uint8_t *buffer, size_t room, size_t *have, size_t want)
{
    while (*have < want) {
        ssize_t n = read(fd, buffer + *have, room - *have);
        if (n <= 0) {
            puts("{\"event\": \"closed\", \"data\": null}");
            exit(0);
        }
        *have += (size_t)n;
    }
}

static void run(int fd)
{
    static uint8_t in[2 * MAX_MESSAGE], message[2 * MAX_MESSAGE];
    size_t have = 0, collected = 0;

    for (;;) {
        uint32_t conn, length;
        fill(fd, in, sizeof in, &have, FRAME_HEADER);
        conn = get32(in);
        length = get32(in + 4);
        if (length > MAX_MESSAGE + MESSAGE_HEADER) {
            fputs("frame too long\n", stderr);
            exit(1);
        }
        fill(fd, in, sizeof in, &have, FRAME_HEADER + length);
        if (conn == PLUGIN_SERVICE) {
            if (collected + length > sizeof message) {
                fputs("message too long\n", stderr);
                exit(1);
            }
            memcpy(message + collected, in + FRAME_HEADER, length);
            collected += length;
            while (collected >= MESSAGE_HEADER && collected >= MESSAGE_HEADER + get32(message)) {
                size_t used = MESSAGE_HEADER + get32(message);
                serve(fd, message);
                collected -= used;
                memmove(message, message + used, collected);
            }
        }
        have -= FRAME_HEADER + length;
        memmove(in, in + FRAME_HEADER + length, have);
    }
}

static void *end_with_stdin(void *unused)
{
    char byte;
    while (read(0, &byte, 1) > 0)
        continue;
    _exit(0);
    return unused;
}

int main(int argc, char **argv)
{
    static const uint8_t create_container_only[] = {2 << 3, 8};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    pthread_t watcher;
    char reply[MAX_REPLY];
    size_t length = 0;
    int fd;

    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: %s SOCKET IDX NAME [FILE]\n", argv[0]);
        return 2;
    }
    if (strlen(argv[1]) >= sizeof address.sun_path || strlen(argv[2]) + strlen(argv[3]) > 200) {
        fputs("argument too long\n", stderr);
        return 2;
    }
    if (argc == 5) {
        FILE *file = fopen(argv[4], "rb");
        if (file == NULL)
            die(argv[4]);
        length = fread(reply, 1, sizeof reply, file);
        if (!feof(file) && fgetc(file) != EOF) {
            fputs("reply too long\n", stderr);
            return 2;
        }
        fclose(file);
    }
    make_answer(&empty, NULL, 0);
    make_answer(&configured, create_container_only, sizeof create_container_only);
    make_answer(&created, reply, length);

    if (pthread_create(&watcher, NULL, end_with_stdin, NULL) != 0)
        die("pthread_create");
    strcpy(address.sun_path, argv[1]);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connect");
    puts("{\"event\": \"ready\", \"data\": null}");
    fflush(stdout);
    register_plugin(fd, argv[2], argv[3]);
    run(fd);
    return 0;
}
