/*
 * VHDX: moving blocks
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_MOVE_H
#define BLOCK_VHDX_MOVE_H

#include "block/vhdx/file.h"

/*
 * While requests go on so much is copied between two flushes, as a guest's
 * flush would have to wait for all of it.
 */
#define VHDX_LIVE_BYTES     (4 * MiB)

typedef struct VHDXMove {
    uint64_t block;                 /* or, of a sector bitmap, its chunk */
    bool bitmap;                    /* a sector bitmap block */
    uint64_t held;                  /* what a place has, bytes */
    uint64_t from;                  /* where it is, bytes */
    uint64_t to;                    /* where it goes, bytes */
    uint64_t bytes;                 /* those that belong to the disk */
    bool data;                      /* there are not only zeros in it */
    bool failed;                    /* a piece could not be read, or copied */
    /* While requests go on */
    VHDXWatch watch;                /* of the place where it is */
    bool busy;                      /* it is written to all the time */
    bool moved;                     /* its entry has changed */
} VHDXMove;

/* Blocks of either kind that are looked at, or moved, together. */
typedef struct VHDXMoveSet {
    unsigned count;
    VHDXMove moves[64];
} VHDXMoveSet;

/*
 * Add the payload block of BAT entry @index, or the sector bitmap block of a
 * child, present at @from, that may go to @to.  Returns whether the set is
 * full.
 */
bool vhdx_move_add(BDRVVHDXState *s, VHDXMoveSet *set, uint64_t index,
                   uint64_t from, uint64_t to);

/*
 * Give blocks of @set, all of them FULLY_PRESENT, in which there are only zeros
 * the state ZERO, and add their number to @dropped.  That is stable, and their
 * space free, with the next commit.  Requests are frozen, no lock is held.
 * Returns 0 or -errno; the image is right in either case.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_move_drop_zeroes(BlockDriverState *bs, VHDXMoveSet *set,
                      uint64_t *dropped);

/*
 * Move the blocks of @set, each to a place that is taken for it, and commit
 * that.  Requests are frozen, no lock is held.  Returns 0 or -errno; what has
 * not moved then is where it was, and its new place is free.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_move_blocks(BlockDriverState *bs, VHDXMoveSet *set);

/*
 * Tell by @errp that something done with @set has failed with @ret, a -errno,
 * and with which block, if it was one.
 */
void vhdx_move_tell(const VHDXMoveSet *set, int ret, Error **errp);

#endif
