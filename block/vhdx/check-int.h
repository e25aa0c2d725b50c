/*
 * VHDX: a check of the BAT under way, private to check*.c
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHECK_INT_H
#define BLOCK_VHDX_CHECK_INT_H

#include "qemu/bitmap.h"
#include "block/vhdx/check-report.h"

/* Entries that are odd, but no error */
typedef enum VHDXCheckOdd {
    ODD_DRAFT,                      /* in the state of the 0.95 draft */
    ODD_OFFSET,                     /* NOT_PRESENT with an offset, no block */
    ODD_PARTIAL,                    /* PARTIALLY_PRESENT, but it is whole */
    ODD_BITMAP,                     /* a sector bitmap's, not zero */
    ODD_BEHIND,                     /* behind the last one */
    ODD_FULL,                       /* PARTIALLY_PRESENT with all sectors */
    ODD_UNNEEDED,                   /* names bits that no block needs */
    ODD_MAX,
} VHDXCheckOdd;

#define VHDX_CHECK_PART     32768   /* bits of a map that are in a page of it */

typedef struct VHDXCheckBat {
    VHDXCheck *check;
    bool first;                     /* this is the first window */
    uint64_t from;                  /* MiB where the window begins */
    uint64_t mibs;                  /* that are in the window */
    uint64_t bits;                  /* ... and in its bitmaps */
    unsigned long *used;
    unsigned long *twice;           /* if not used: seen to be zeros */
    unsigned long *named;           /* not used: by entries; used: its start */
    unsigned long *parts;           /* of the maps, in which a bit may be set */
    uint64_t part_count;
    unsigned long *windows;         /* those in which there is something */
    uint64_t next;                  /* offset behind the last block seen */
    uint64_t partial;               /* blocks that are PARTIALLY_PRESENT */
    bool bitmaps;                   /* a sector bitmap's entry names a place */
    bool whole;                     /* they are present as a whole */
    bool child;                     /* there are traces of a parent */
    uint64_t needs;                 /* 1 + last chunk that needs its bitmap */
    uint8_t *buf;                   /* a MiB, when there is need */
    uint64_t odd[ODD_MAX];
} VHDXCheckBat;

/* An entry with what is needed to judge it */
typedef struct VHDXCheckEntry {
    uint64_t index;
    uint64_t block;                 /* unless @bitmap */
    uint64_t raw;
    uint64_t value;                 /* with what is certain put right */
    uint64_t offset;                /* named by @raw */
    uint64_t bytes;                 /* of what it may name there */
    bool bitmap;                    /* a sector bitmap's, by its index */
    bool behind;                    /* ... or behind the last one */
    bool present;                   /* names what is within the file */
    bool inside;                    /* names a place that begins in the file */
    bool certain;                   /* judged: without doubt it means @value */
} VHDXCheckEntry;

/* Bits @first to @end of the maps may be set from now on. */
static inline void vhdx_check_touch(VHDXCheckBat *c, uint64_t first,
                                    uint64_t end)
{
    for (uint64_t part = first / VHDX_CHECK_PART;
         part * VHDX_CHECK_PART < end; part++) {
        set_bit(part, c->parts);
    }
}

/*
 * Judge an entry in the window of @c, whose maps tell what all others use: what
 * is wrong is told and, where it may be, mended.  No lock is held.  Returns 1
 * if the entry has been put right, 0 if not, or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_check_entry_judge(BlockDriverState *bs, VHDXCheckBat *c,
                       VHDXCheckEntry *e);

#endif
