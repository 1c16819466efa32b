/* The part of the benchmark's work whose own cost would hide that of the file system in an interpreter.
 *
 *   load stat   ROOT LIST THREADS PASSES   lstat every name of LIST, PASSES times
 *   load read   ROOT LIST THREADS PASSES   open, read to the end and close every file of LIST
 *   load seq    FILE BLOCK THREADS         read FILE once, BLOCK bytes at a time, each thread its own part
 *   load random FILE COUNT                 COUNT reads of 4 KiB at places that are the same in every run
 *
 * LIST holds names relative to ROOT, each ended by a NUL.  Threads begin together and share the names in turn.
 * Prints what took place as "SECONDS UNEVEN FOUND BYTES": from the common begin to the end of the last thread, the
 * time of the last thread over that of the first, how many names were there, and the bytes read.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_THREADS = 64, PAGE = 4096, READ_BLOCK = 128 << 10 };

struct job {
    int (*run)(struct job *);
    int number, threads;
    double begin, end;
    uint64_t found, bytes;
    int failure;
};

static int root, passes;
static const char **names;
static size_t name_count;
static const char *path;
static size_t block;
static uint64_t random_reads, file_size;
static pthread_barrier_t together;

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static _Noreturn void fail(const char *what, int error)
{
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    exit(1);
}

static int run_stat(struct job *job)
{
    struct stat found;
    for (int pass = 0; pass < passes; pass++)
        for (size_t i = (size_t)job->number; i < name_count; i += (size_t)job->threads) {
            if (fstatat(root, names[i], &found, AT_SYMLINK_NOFOLLOW) == 0)
                job->found++;
            else if (errno != ENOENT && errno != ENOTDIR)
                return errno;
        }
    return 0;
}

/* Reads `size` bytes from `offset` on, or to the end of the file. */
static int drain(int file, char *buffer, size_t step, uint64_t offset, uint64_t size, uint64_t *bytes)
{
    uint64_t end = offset + size;
    while (offset < end) {
        size_t wanted = end - offset < step ? (size_t)(end - offset) : step;
        ssize_t count = pread(file, buffer, wanted, (off_t)offset);
        if (count < 0)
            return errno;
        if (count == 0)
            break;
        offset += (uint64_t)count;
        *bytes += (uint64_t)count;
    }
    return 0;
}

static int run_read(struct job *job)
{
    char *buffer = malloc(READ_BLOCK);
    int error = buffer == NULL ? ENOMEM : 0;
    for (int pass = 0; pass < passes; pass++)
        for (size_t i = (size_t)job->number; i < name_count && !error; i += (size_t)job->threads) {
            int file = openat(root, names[i], O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
            if (file < 0) {
                error = errno;
                break;
            }
            error = drain(file, buffer, READ_BLOCK, 0, INT64_MAX, &job->bytes);
            close(file);
            job->found++;
        }
    free(buffer);
    return error;
}

static int run_seq(struct job *job)
{
    uint64_t threads = (uint64_t)job->threads;
    uint64_t part = ((file_size + threads - 1) / threads + block - 1) / block * block;
    uint64_t offset = part * (uint64_t)job->number;
    char *buffer = aligned_alloc(PAGE, (block + PAGE - 1) / PAGE * PAGE);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    int error = file < 0 || buffer == NULL ? errno : 0;
    if (!error && offset < file_size)
        error = drain(file, buffer, block, offset, part < file_size - offset ? part : file_size - offset,
                      &job->bytes);
    if (file >= 0)
        close(file);
    free(buffer);
    return error;
}

static int run_random(struct job *job)
{
    char buffer[PAGE];
    uint64_t state = 88172645463325252u, pages = file_size / PAGE;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    int error = file < 0 ? errno : 0;
    for (uint64_t i = 0; i < random_reads && pages && !error; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        error = drain(file, buffer, PAGE, state % pages * PAGE, PAGE, &job->bytes);
    }
    if (file >= 0)
        close(file);
    return error;
}

static void *run(void *argument)
{
    struct job *job = argument;
    pthread_barrier_wait(&together);
    job->begin = now();
    job->failure = job->run(job);
    job->end = now();
    return NULL;
}

static void load_names(const char *list)
{
    struct stat status;
    int file = open(list, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) < 0)
        fail(list, errno);
    char *text = malloc((size_t)status.st_size + 1);
    uint64_t bytes = 0;
    int error = text == NULL ? ENOMEM : drain(file, text, (size_t)status.st_size + 1, 0, (uint64_t)status.st_size, &bytes);
    if (error)
        fail(list, error);
    close(file);
    for (uint64_t i = 0; i < bytes; i++)
        name_count += text[i] == 0;
    names = calloc(name_count + 1, sizeof *names);
    if (names == NULL)
        fail(list, ENOMEM);
    for (size_t i = 0; i < name_count; i++, text += strlen(text) + 1)
        names[i] = text;
}

int main(int argc, char **argv)
{
    struct job jobs[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    struct stat status;
    int count = 1;
    int (*work)(struct job *) = NULL;

    if (argc == 6 && (!strcmp(argv[1], "stat") || !strcmp(argv[1], "read"))) {
        root = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
            fail(argv[2], errno);
        load_names(argv[3]);
        count = atoi(argv[4]);
        passes = atoi(argv[5]);
        work = argv[1][0] == 's' ? run_stat : run_read;
    } else if (argc == 5 && !strcmp(argv[1], "seq")) {
        block = strtoull(argv[3], NULL, 10);
        count = atoi(argv[4]);
        work = run_seq;
    } else if (argc == 4 && !strcmp(argv[1], "random")) {
        random_reads = strtoull(argv[3], NULL, 10);
        work = run_random;
    }
    if (work == NULL || count < 1 || count > MOST_THREADS || (work == run_seq && block == 0)) {
        fprintf(stderr, "usage: see the source\n");
        return 2;
    }
    if (work == run_seq || work == run_random) {
        path = argv[2];
        if (stat(path, &status) < 0)
            fail(path, errno);
        file_size = (uint64_t)status.st_size;
    }

    pthread_barrier_init(&together, NULL, (unsigned)count);
    for (int i = 0; i < count; i++) {
        jobs[i] = (struct job){.run = work, .number = i, .threads = count};
        int error = pthread_create(&threads[i], NULL, run, &jobs[i]);
        if (error)
            fail("pthread_create", error);
    }
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);

    double begin = jobs[0].begin, first = 0, last = 0;
    uint64_t found = 0, bytes = 0;
    for (int i = 0; i < count; i++)
        if (jobs[i].begin < begin)
            begin = jobs[i].begin;
    for (int i = 0; i < count; i++) {
        double took = jobs[i].end - begin;
        if (jobs[i].failure)
            fail("a reader failed", jobs[i].failure);
        if (i == 0 || took < first)
            first = took;
        if (took > last)
            last = took;
        found += jobs[i].found;
        bytes += jobs[i].bytes;
    }
    printf("%.9f %.6f %llu %llu\n", last, first > 0 ? last / first : 1.0, (unsigned long long)found,
           (unsigned long long)bytes);
    return 0;
}
