/*
 * VHDX: a compaction under way, private to compact*.c
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_COMPACT_INT_H
#define BLOCK_VHDX_COMPACT_INT_H

#include "block/vhdx/move.h"

typedef struct VHDXCompact {
    BlockDriverAmendStatusCB *status_cb;
    void *cb_opaque;
    unsigned phase, phases;
    uint64_t done, total;           /* blocks, in this phase */
    uint64_t told;                  /* progress, which does not go back */

    uint64_t present;               /* blocks */
    uint64_t bitmaps;               /* sector bitmap blocks of a child */
    uint64_t needed;                /* of them, those that blocks refer to */
    uint64_t chunks;                /* 1 + the last one with such a block */
    uint64_t end;                   /* of the last of all, bytes */
    uint64_t unused;                /* entries with a place they do not use */
    uint64_t behind;                /* entries behind the last that are not 0 */
    uint64_t limit;                 /* blocks shall end here, bytes */
    uint64_t next;                  /* the BAT entry to go on with */
    bool small;                     /* only bitmaps are moved now */
    bool stuck;                     /* there is no place for its block */
    bool single;                    /* one block at a time, for want of space */
    bool live;                      /* requests go on */
    VHDXMoveSet set;
    Error **errp;
} VHDXCompact;

/* Tell how far it has got, by @c->done and @c->total of this phase. */
void vhdx_compact_progress(BlockDriverState *bs, VHDXCompact *c);

/*
 * What BAT entry @index of the raw value @entry names, which is sound: a
 * payload block, a child's sector bitmap block, or nothing that could be moved.
 * Returns how many bytes that has in the file, or 0.
 */
uint64_t vhdx_compact_object(BDRVVHDXState *s, uint64_t index, uint64_t entry,
                             bool *bitmap);

/*
 * Fill the set from BAT entry @c->next on by @func, which returns 1 when there
 * are enough blocks in it, and move @c->next on to where to begin next time.
 * What can be given for @func: the first adds blocks that are FULLY_PRESENT, as
 * what a PARTIALLY_PRESENT one does not have is the parent's; the second those
 * that end behind the limit, or sector bitmap blocks if @c->small, with the
 * first place below it for each, and sets @c->stuck where there is none; what
 * is free has to be known for it.  The third counts the latter into @c->total,
 * and the last all blocks, sector bitmap blocks, and places that are not used.
 */
typedef int VHDXCompactFunc(BlockDriverState *bs, uint64_t index,
                            const uint64_t *entries, uint64_t count,
                            void *opaque);
int coroutine_fn GRAPH_RDLOCK
vhdx_compact_fill(BlockDriverState *bs, VHDXCompact *c, VHDXCompactFunc *func);
VHDXCompactFunc vhdx_compact_add_present;
VHDXCompactFunc vhdx_compact_add_behind;
VHDXCompactFunc vhdx_compact_count_behind;
VHDXCompactFunc coroutine_fn GRAPH_RDLOCK vhdx_compact_count;

/*
 * Whether blocks are to be tried again, one at a time, as moving several has
 * ended with @ret: where the host has little space, what a block has left is
 * the next one's.  No lock is held.
 */
bool coroutine_fn GRAPH_RDLOCK
vhdx_compact_try_single(BlockDriverState *bs, VHDXCompact *c, int ret);

/*
 * Where blocks shall end in a file of @packed bytes: before whatever else is
 * behind that, which then has room after them.
 */
uint64_t vhdx_compact_limit(BDRVVHDXState *s, uint64_t packed);

/*
 * How far the log or a region may end in a file of @packed bytes and stay where
 * it is, though it could go down by less than its length: as far as less than a
 * block would be gained.  What another one touches that ends further has to
 * make room, so it is behind that as well.
 */
uint64_t vhdx_compact_far(BDRVVHDXState *s, uint64_t packed);

/* The sum of the places of regions and the log, by which a move down shows. */
uint64_t vhdx_compact_height(BDRVVHDXState *s);

/*
 * How many bytes a file has with all objects, but so many payload @blocks and
 * sector bitmap blocks, @bitmaps, and no gap.
 */
uint64_t vhdx_compact_packed(BDRVVHDXState *s, uint64_t blocks,
                             uint64_t bitmaps);

/*
 * Drop the places that entries name without using them, of which there are
 * some.  No lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_compact_drop_unused(BlockDriverState *bs, VHDXCompact *c);

/*
 * Count the blocks that are present, and let entries name nothing but their
 * places.  Requests are frozen, no lock is held.  Returns 0 or -errno, with
 * @c->errp set where that says more.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_compact_drop_places(BlockDriverState *bs, VHDXCompact *c);

/*
 * Of a child, let blocks that have all their sectors be FULLY_PRESENT, and give
 * up sector bitmap blocks that no block needs.  What is free is known, requests
 * are frozen, no lock is held.  Returns 0 or -errno; the image is right in
 * either case.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_compact_drop_bitmaps(BlockDriverState *bs, VHDXCompact *c);

/*
 * Move blocks down one after the other, as they lie in the file, until no more
 * than a block is lost in the gaps behind.  What is free is known, requests are
 * frozen, no lock is held.  Returns 0 or -errno, which may be that there is no
 * space to move blocks out of the way; each block is in one place then, too.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_compact_slide(BlockDriverState *bs, VHDXCompact *c);

#endif
