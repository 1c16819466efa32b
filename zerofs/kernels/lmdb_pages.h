/* LMDB's file as it lies in memory: what a reader of its trees needs to know.
 *
 * Facts from LMDB 0.9's mdb.c: version 1 of the data file, and the only one.  Numbers lie in the order and size of the
 * machine that wrote the file, so this is for 64 bits, lowest byte first; elsewhere nothing is read (`ZEROFS_LMDB_FITS`).
 *
 * A file is pages of one size.  Pages 0 and 1 are meta pages: transaction N writes page N % 2, and its numbers become
 * valid with its id, which is written last.  A tree has branch and leaf pages; behind the header of each, from
 * `ZEROFS_LMDB_HEADER` on, stand the offsets of its nodes, sorted by name, up to `lower`.  A branch node's number is
 * that of the page below it, and the first one's name counts for nothing.  A value too long for a leaf lies in overflow
 * pages of its own that follow each other, and behind the header of the first. */
#ifndef ZEROFS_LMDB_PAGES_H
#define ZEROFS_LMDB_PAGES_H

#include <stddef.h>
#include <stdint.h>

#define ZEROFS_LMDB_FITS (sizeof(void *) == 8 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)

enum {
    ZEROFS_LMDB_VERSION = 1,
    ZEROFS_LMDB_HEADER = 16, /* bytes of a page's header, and of a meta page's before its numbers */
    ZEROFS_LMDB_BRANCH = 0x01, /* kinds of pages */
    ZEROFS_LMDB_LEAF = 0x02,
    ZEROFS_LMDB_OVERFLOW = 0x04,
    ZEROFS_LMDB_META = 0x08,
    ZEROFS_LMDB_BIG = 0x01, /* of a node: its value is the number of the first overflow page */
    ZEROFS_LMDB_TREE = 0x02, /* its value is a `zerofs_lmdb_tree` */
    ZEROFS_LMDB_SMALLEST_PAGE = 256,
    ZEROFS_LMDB_LARGEST_PAGE = 0x8000,
    ZEROFS_LMDB_DEEPEST = 32, /* pages on the way down, LMDB's own bound */
};

#define ZEROFS_LMDB_MAGIC 0xBEEFC0DEu
#define ZEROFS_LMDB_NO_PAGE UINT64_MAX /* the root of an empty tree */

struct zerofs_lmdb_page {
    uint64_t number;
    uint16_t unused;
    uint16_t kind;
    union {
        struct {
            uint16_t lower, upper; /* the free space between the offsets and the nodes */
        };
        uint32_t pages; /* of an overflow page: how many follow each other, with this one */
    };
};

struct zerofs_lmdb_node {
    uint16_t low, high; /* leaf: bytes of the value; branch: of the number of a page the lower bits, and */
    uint16_t flags; /* branch: its highest ones */
    uint16_t name_size; /* the name follows, and in a leaf the value */
};

struct zerofs_lmdb_tree {
    uint32_t page_size; /* of the first tree of a meta page; elsewhere unused */
    uint16_t flags; /* 0: names are compared byte by byte, and each is there once */
    uint16_t depth;
    uint64_t branches, leaves, overflows, entries;
    uint64_t root;
};

struct zerofs_lmdb_meta {
    uint32_t magic, version;
    uint64_t address, map_size;
    struct zerofs_lmdb_tree free, main;
    uint64_t last_page;
    uint64_t transaction;
};

_Static_assert(sizeof(struct zerofs_lmdb_page) == ZEROFS_LMDB_HEADER, "a page's header");
_Static_assert(sizeof(struct zerofs_lmdb_node) == 8, "a node's header");
_Static_assert(sizeof(struct zerofs_lmdb_tree) == 48, "a tree's numbers");
_Static_assert(sizeof(struct zerofs_lmdb_meta) == 136, "a meta page's numbers");

#endif
