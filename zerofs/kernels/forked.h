/* Two small processes, forked from one that has threads: nothing in them allocates memory or takes a lock, and of the
 * descriptors they keep two.  zerofs/mount/notify.py says what they are for. */
#ifndef ZEROFS_FORKED_H
#define ZEROFS_FORKED_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define ZEROFS_MOST_MESSAGES 4096 /* in a datagram of ZEROFS_MOST_BYTES: none is shorter than its header of 16 */
#define ZEROFS_MOST_BYTES 65536
#define ZEROFS_REMOUNT 0x7a66 /* in place of the code of a notification: flags, and what is remounted */
#define ZEROFS_PATIENCE 200 /* milliseconds until a writer that does not end is taken to be waiting */

static void zerofs_close_between(unsigned first, unsigned last)
{
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
        return;
    for (unsigned fd = first; fd <= last && fd < 65536; fd++) /* before Linux 5.9 */
        close((int)fd);
}

/* In a child: no signals but SIGKILL, no descriptors but these two. */
static void zerofs_keep_two(int one, int other)
{
    unsigned low = one < other ? one : other, high = one < other ? other : one;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    if (low > 0)
        zerofs_close_between(0, low - 1);
    zerofs_close_between(low + 1, high - 1);
    zerofs_close_between(high + 1, ~0u);
}

struct zerofs_message {
    uint32_t length;
    int32_t code;
    uint64_t unique;
};

static int zerofs_tell(int channel, const char *message, uint32_t length)
{
    struct zerofs_message header;
    uint64_t flags;
    size_t body = sizeof header + sizeof flags;
    memcpy(&header, message, sizeof header);
    if (header.code != ZEROFS_REMOUNT)
        return write(channel, message, length) < 0 ? errno : 0;
    if (length <= body || message[length - 1] != 0)
        return EINVAL;
    memcpy(&flags, message + sizeof header, sizeof flags);
    return mount("overlay", message + body, "overlay", MS_REMOUNT | flags, NULL) < 0 ? errno : 0;
}

static int zerofs_fork_writer(int requests, int channel)
{
    static char messages[ZEROFS_MOST_BYTES];
    static int32_t results[ZEROFS_MOST_MESSAGES];
    int child = (int)fork();
    if (child != 0)
        return child;
    zerofs_keep_two(requests, channel);
    for (;;) {
        ssize_t size = recv(requests, messages, sizeof messages, 0);
        size_t count = 0;
        if (size <= 0)
            _exit(0);
        for (size_t at = 0; at + 4 <= (size_t)size && count < ZEROFS_MOST_MESSAGES;) {
            uint32_t length;
            memcpy(&length, messages + at, 4);
            if (length < sizeof(struct zerofs_message) || length > (size_t)size - at)
                break;
            results[count++] = zerofs_tell(channel, messages + at, length);
            at += length;
        }
        if (send(requests, results, count * sizeof *results, MSG_NOSIGNAL) < 0)
            _exit(0);
    }
}

static int zerofs_fork_watcher(int alive, int writer, const char *abortion, const char *mountpoint)
{
    struct pollfd end = {.fd = writer, .events = POLLIN};
    char byte;
    int child = (int)fork(), fd;
    if (child != 0)
        return child;
    zerofs_keep_two(alive, writer);
    while (read(alive, &byte, 1) < 0 && errno == EINTR)
        ;
    if (poll(&end, 1, ZEROFS_PATIENCE) == 0) {
        fd = open(abortion, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "1", 1) != 1)
            umount2(mountpoint, MNT_FORCE | UMOUNT_NOFOLLOW);
    }
    _exit(0);
}

#endif
