/* Mapped files whose pages the disk may fail to give.
 *
 * Touching such a page is SIGBUS.  Within a registered range the handler counts the fault and lays a page of zeros
 * there, so that the instruction goes on; whoever reads looks at the count afterwards and throws away what it has read.
 * What runs inside `zerofs_try` is left at once instead, and nothing is laid anywhere.  Elsewhere the signal does what it
 * did before. */
#ifndef ZEROFS_GUARDED_H
#define ZEROFS_GUARDED_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ZEROFS_MOST_RANGES 256

struct zerofs_range {
    uintptr_t start; /* 0: free */
    uintptr_t end;
    uint32_t faults; /* twice each; counted before the page of zeros is there: who read it sees the count */
    int writable;    /* pages of zeros can be written, and nobody is told: nothing that is read depends on them */
};

static struct zerofs_range zerofs_ranges[ZEROFS_MOST_RANGES];
static struct sigaction zerofs_bus_before;
static uintptr_t zerofs_page_size;
/* Where this thread faulted last.  Initial-exec: reaching it allocates nothing, which a handler must not do. */
static __thread uintptr_t zerofs_fault_address __attribute__((tls_model("initial-exec")));

/* Where `zerofs_try` goes on when a page of its range cannot be had; NULL: this thread is in none. */
struct zerofs_escape {
    uintptr_t start;
    uintptr_t end;
    sigjmp_buf place;
};
static __thread struct zerofs_escape *volatile zerofs_escape __attribute__((tls_model("initial-exec")));

static void zerofs_on_bus(int number, siginfo_t *info, void *context)
{
    uintptr_t address = (uintptr_t)info->si_addr;
    int saved = errno;
    struct zerofs_escape *escape = zerofs_escape;
    if (info->si_code > 0 && escape != NULL && address >= escape->start && address < escape->end)
        siglongjmp(escape->place, 1); /* out of arithmetic of this thread's own, which leaves nothing half done */
    for (int i = 0; i < ZEROFS_MOST_RANGES && info->si_code > 0; i++) { /* 0 and less: sent by a process */
        struct zerofs_range *range = &zerofs_ranges[i];
        uintptr_t start = __atomic_load_n(&range->start, __ATOMIC_ACQUIRE);
        if (start == 0 || address < start || address >= range->end)
            continue;
        __atomic_add_fetch(&range->faults, 1, __ATOMIC_SEQ_CST);
        if (!range->writable)
            zerofs_fault_address = address;
        int access = range->writable ? PROT_READ | PROT_WRITE : PROT_READ;
        void *page = (void *)(address & ~(zerofs_page_size - 1));
        void *zeros = mmap(page, zerofs_page_size, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        errno = saved;
        if (zeros == MAP_FAILED)
            break;
        /* Once more: whoever restored the file's pages between the first count and the zeros has to do it again. */
        __atomic_add_fetch(&range->faults, 1, __ATOMIC_SEQ_CST);
        return;
    }
    if (zerofs_bus_before.sa_flags & SA_SIGINFO)
        zerofs_bus_before.sa_sigaction(number, info, context);
    else if (zerofs_bus_before.sa_handler != SIG_DFL && zerofs_bus_before.sa_handler != SIG_IGN)
        zerofs_bus_before.sa_handler(number);
    else {
        signal(SIGBUS, SIG_DFL);
        if (info->si_code <= 0)
            raise(SIGBUS);
        /* else the instruction is tried again, and ends the process */
    }
}

static inline int zerofs_install(void)
{
    struct sigaction action;
    if (zerofs_page_size != 0)
        return 0;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = zerofs_on_bus;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    if (sigaction(SIGBUS, &action, &zerofs_bus_before) != 0)
        return -1;
    zerofs_page_size = (uintptr_t)sysconf(_SC_PAGE_SIZE);
    return 0;
}

/* The number of the range, or -1: there are too many, or errno says why.  One caller at a time. */
static inline int zerofs_register_range(uintptr_t start, uintptr_t size, int writable)
{
    if (zerofs_install() != 0)
        return -1;
    for (int i = 0; i < ZEROFS_MOST_RANGES; i++) {
        struct zerofs_range *range = &zerofs_ranges[i];
        if (range->start != 0)
            continue;
        range->end = start + size;
        range->faults = 0;
        range->writable = writable;
        __atomic_store_n(&range->start, start, __ATOMIC_RELEASE);
        return i;
    }
    errno = ENOSPC;
    return -1;
}

static inline int zerofs_register(uintptr_t start, uintptr_t size) { return zerofs_register_range(start, size, 0); }

static inline int zerofs_register_writable(uintptr_t start, uintptr_t size)
{
    return zerofs_register_range(start, size, 1);
}

/* `work(argument)`, or -1 where it touched a page from `start` on that cannot be had.  The mapping needs no guard of its
 * own, but one must be registered somewhere.  `work` computes: it takes no lock, allocates nothing, and is not nested. */
static __attribute__((noinline)) int zerofs_try(int (*work)(void *), void *argument, const void *start, uintptr_t size)
{
    struct zerofs_escape escape = {.start = (uintptr_t)start, .end = (uintptr_t)start + size};
    int result;
    if (sigsetjmp(escape.place, 0) != 0) { /* the handler blocks no signals, so none are to be restored */
        zerofs_escape = NULL;
        return -1;
    }
    zerofs_escape = &escape;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    result = work(argument);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    zerofs_escape = NULL;
    return result;
}

/* Reads a byte of every page. */
static inline void zerofs_touch(const char *start, uintptr_t size)
{
    for (uintptr_t at = 0; at < size; at += zerofs_page_size - ((uintptr_t)(start + at) & (zerofs_page_size - 1)))
        (void)*(const volatile char *)(start + at);
}

static inline void zerofs_unregister(int number)
{
    __atomic_store_n(&zerofs_ranges[number].start, 0, __ATOMIC_RELEASE);
}

static inline uint32_t zerofs_faults(int number)
{
    return __atomic_load_n(&zerofs_ranges[number].faults, __ATOMIC_SEQ_CST);
}

static inline uintptr_t zerofs_take_fault(void)
{
    uintptr_t address = zerofs_fault_address;
    zerofs_fault_address = 0;
    return address;
}

/* A second mapping of the same pages; MAP_FAILED where the mapping is not a shared one. */
static inline void *zerofs_map_again(uintptr_t start, uintptr_t size)
{
    return mremap((void *)start, 0, size, MREMAP_MAYMOVE);
}

/* The pages of the file again, in place of pages of zeros.  Other threads never find nothing there. */
static inline int zerofs_restore(void *again, uintptr_t start, uintptr_t size)
{
    return mremap(again, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)start) == MAP_FAILED ? -1 : 0;
}

#endif
