/*
 * VHDX: places for the blocks of a fixed image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PLACED_H
#define BLOCK_VHDX_PLACED_H

#include "block/vhdx/state.h"

/* How blocks get their places */
typedef struct VHDXPlaced {
    bool keep;                      /* the host gives the space now */
    uint64_t given;                 /* ... has done so from there on, bytes */
} VHDXPlaced;

/*
 * Have room for @blocks new blocks, with the host's space as @prealloc asks;
 * @p is for vhdx_placed_add().  No lock is held.  Returns 0, or -errno:
 * -ENOTSUP where the protocol has no falloc.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_placed_reserve(BlockDriverState *bs, uint64_t blocks,
                    PreallocMode prealloc, VHDXPlaced *p);

/*
 * Find a place for @block, make it zeros, and set its entry, which may be
 * behind the last one.  If it has kept a place, @kept, that is taken if it can
 * be; else @kept is 0.  Requests are frozen, no lock is held.  Returns 0 or
 * -errno; with the latter the entry may be set all the same.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_placed_add(BlockDriverState *bs, uint64_t block, uint64_t kept,
                const VHDXPlaced *p);

#endif
