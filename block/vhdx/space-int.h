/*
 * VHDX: free space in the file, as its parts share it
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_SPACE_INT_H
#define BLOCK_VHDX_SPACE_INT_H

#include "block/vhdx/file.h"

/* A place that is no longer used, but may be yet */
typedef struct VHDXFreed {
    uint64_t offset;                /* bytes */
    uint64_t length;                /* bytes */
    uint64_t ticket;                /* requests before it may still use it */
} VHDXFreed;

struct VHDXSpace {
    uint64_t end;                   /* end of the last object, bytes */
    uint64_t zero_from;             /* free space from here on reads as zeros */
    uint64_t keep;                  /* a fixed image isn't cut below, bytes */
    uint64_t cut_from;              /* @end before what is being cut, or 0 */
    bool uncut;                     /* the file could not be cut */
    bool cut_told;                  /* ... and that has been reported */
    bool only_grows;                /* ... as the node can't get shorter */
    bool scanning;                  /* the map is being made: none to take */
    bool scanned;                   /* the map tells of all that is free */
    bool overlap;                   /* ... and a place may be two blocks' */
    bool damaged;                   /* an entry can't be, or was not, right */
    uint64_t lost;                  /* entries that vhdx_bat_may_be_block() */
    unsigned long *used;            /* bitmap of MiBs below @end, or NULL */
    uint64_t used_bits;
    unsigned long *kept;            /* MiBs kept by one block, or NULL */
    uint64_t kept_bits;
    uint64_t hint;                  /* MiB: there's none for a block before */
    GArray *freed;                  /* VHDXFreed: not yet committed */
    GArray *committing;             /* VHDXFreed: in the commit under way */
    GArray *committed;              /* VHDXFreed: committed, maybe still read */
    guint taken;                    /* of @committed: in the map by now */
    unsigned long *punch;           /* bitmap of free MiBs to be punched */
    uint64_t punch_bits;
    uint64_t punch_from;            /* MiB: there is none before */
    uint64_t free_end;              /* bytes: what is free behind is punched */
};

#endif
