/*
 * VHDX: dynamic and fixed images
 *
 * What makes an image fixed is the flag LeaveBlockAllocated of its File
 * Parameters, and that each block has a place.  So a dynamic image becomes
 * fixed where it is:
 *
 *   1. There is room for all blocks that have no place.
 *   2. Each of them gets one, with zeros, as it has read as zeros before.  The
 *      zeros are stable before the entry.  Until the flag is set this is a
 *      dynamic image with more blocks than it needs.
 *   3. When all entries are stable the flag is set, which is one change of the
 *      metadata items.
 *
 * If that fails before the end, blocks that have got a place lose it again.
 *
 * To zero what the file has may take long.  Where requests go on, each block
 * gets its place as if a guest had written zeros to it, one after the other,
 * and what is above is done to those that have lost it again.  What has been
 * placed so is not undone: nobody knows whether a guest has written to it.
 *
 * Where the host is to give the space now, holes in blocks that are present get
 * zeros as well.
 *
 * The other way only the flag goes; compacting gives the space back.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/io.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/metadata-write.h"
#include "block/vhdx/placed.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"
#include "block/vhdx/subformat.h"
#include "trace.h"

/* So long blocks get places before others may say that it is enough. */
#define LIVE_NS     (10 * SCALE_MS)

typedef struct Fix {
    BlockDriverAmendStatusCB *status_cb;
    void *cb_opaque;
    uint64_t done;                  /* blocks, while requests went on */
    VHDXPlaced placed;
    unsigned long *added;           /* blocks that have got a place */
} Fix;

bool vhdx_subformat_allowed(BDRVVHDXState *s, bool fixed, Error **errp)
{
    const char *name = fixed ? "fixed" : "dynamic";

    if (s->params.has_parent) {
        error_setg(errp, "A differencing image can't be made %s: it has a "
                   "parent", name);
        return false;
    }
    if (s->has_locator) {
        error_setg(errp, "Could not make the image %s: it has a Parent "
                   "Locator, but HasParent of File Parameters is 0", name);
        return false;
    }
    return true;
}

/* Set the flag in the file, with all that was changed before, and here. */
static int coroutine_fn GRAPH_RDLOCK
flag_set(BlockDriverState *bs, bool fixed, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXParams params = s->params;
    uint8_t parameters[8];
    VHDXItemChange change = {
        .guid = &vhdx_item_file_parameters,
        .buf = parameters,
        .length = sizeof(parameters),
    };
    int ret;

    params.leave_allocated = fixed;
    vhdx_file_parameters_encode(&params, parameters);
    qemu_co_mutex_lock(&s->commit_lock);
    ret = vhdx_metadata_change(bs, &change, 1, errp);
    if (ret == 0) {
        VHDX_LOCK_GUARD(s);
        s->params = params;
        /* What the file has had behind its last block may go. */
        vhdx_space_keep_less(s, UINT64_MAX);
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    trace_vhdx_subformat(s, fixed, ret);
    return ret;
}

/* Let the host give space to the holes in the block at @place. */
static int coroutine_fn GRAPH_RDLOCK
holes_fill(BlockDriverState *bs, uint64_t place, uint64_t bytes)
{
    int ret = 0;

    while (bytes && ret == 0) {
        int64_t n;
        int status = vhdx_file_extent(bs, place, bytes, &n);

        if (status & BDRV_BLOCK_ZERO) {
            ret = vhdx_file_pwrite_zeroes(bs, place, n, 0);
        }
        place += n;
        bytes -= n;
    }
    return ret;
}

/*
 * Do what is to be done to @count blocks from @block on, which are alike; the
 * entry of the first is @entry.
 */
static int coroutine_fn GRAPH_RDLOCK
run_fix(BlockDriverState *bs, Fix *f, uint64_t block, uint64_t count,
        uint64_t entry)
{
    BDRVVHDXState *s = bs->opaque;
    bool present = vhdx_bat_is_present(s, entry);
    uint64_t place = vhdx_bat_offset(entry);
    int ret = 0;

    for (uint64_t i = block; i < block + count && ret == 0; i++) {
        if (!present) {
            set_bit(i, f->added);
            ret = vhdx_placed_add(bs, i, place, &f->placed);
        } else if (f->placed.keep) {
            ret = holes_fill(bs, place, vhdx_block_bytes(&s->geo, i));
            place += s->geo.block_size;
        }
    }
    return ret;
}

/*
 * Go through all blocks: only count those without a place, as @absent, or have
 * run_fix() done to them if @f is not NULL.
 */
static int coroutine_fn GRAPH_RDLOCK
blocks_walk(BlockDriverState *bs, Fix *f, uint64_t *absent)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry, count;
    int ret = 0;

    *absent = 0;
    for (uint64_t at = 0; at < s->geo.blocks && ret == 0; at += count) {
        WITH_VHDX_LOCK_GUARD(s) {
            ret = vhdx_bat_get_run(bs, at, s->geo.blocks - at, &entry, &count);
        }
        if (ret < 0) {
            break;
        }
        *absent += vhdx_bat_is_present(s, entry) ? 0 : count;
        if (f) {
            ret = run_fix(bs, f, at, count, entry);
            f->status_cb(bs, f->done + at + count, f->done + s->geo.blocks,
                         f->cb_opaque);
        }
    }
    return ret;
}

/* Let @block, which has got a place with zeros in it, have none again. */
static int coroutine_fn GRAPH_RDLOCK
block_undo(BlockDriverState *bs, uint64_t block)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry;
    int ret;

    vhdx_lock(s);
    ret = vhdx_bat_get(bs, block, &entry);
    if (ret < 0 || !vhdx_bat_is_present(s, entry)) {
        vhdx_unlock(s);
        return ret;
    }
    vhdx_bat_set(s, block, vhdx_bat_entry(VHDX_BLOCK_ZERO, 0));
    vhdx_space_release(s, vhdx_bat_offset(entry), s->geo.block_size);
    return vhdx_commit_unlock(bs);
}

/* Where this fails the image is right, but has blocks that it does not need. */
static void coroutine_fn GRAPH_RDLOCK blocks_undo(BlockDriverState *bs, Fix *f)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t blocks = s->geo.blocks;
    uint64_t at = find_first_bit(f->added, blocks);
    int ret = 0;

    while (at < blocks && ret == 0 && !vhdx_change_is_broken(s)) {
        ret = block_undo(bs, at);
        at = find_next_bit(f->added, blocks, at + 1);
    }
    (void)vhdx_commit(bs);
}

/* Whether each block that has a place has that for itself */
static int coroutine_fn GRAPH_RDLOCK
places_check(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_space_learn(bs);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not find out what of the file is "
                         "free");
        return ret;
    }
    VHDX_LOCK_GUARD(s);
    if (vhdx_space_overlaps(s)) {
        error_setg(errp, "Could not make the image fixed: blocks overlap in "
                   "the file");
        error_append_hint(errp, "Run 'qemu-img check' for details.\n");
        return -EINVAL;
    }
    return 0;
}

/* Tell that blocks can't be allocated, if @ret says so.  Returns @ret. */
static int places_tell(BlockDriverState *bs, int ret, Error **errp)
{
    if (ret == -ENOTSUP) {
        error_setg_errno(errp, -ret, "Could not allocate the blocks: the "
                         "protocol node " VHDX_NO_FALLOC);
    } else if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not allocate the blocks of '%s'",
                         bs->filename);
    }
    return ret;
}

/* Steps 1 and 2, for @absent blocks that have no place */
static int coroutine_fn GRAPH_RDLOCK
blocks_fix(BlockDriverState *bs, Fix *f, uint64_t absent, PreallocMode prealloc,
           Error **errp)
{
    int ret = vhdx_begin(bs, VHDX_METADATA) ?:
              vhdx_placed_reserve(bs, absent, prealloc, &f->placed) ?:
              blocks_walk(bs, f, &absent) ?:
              vhdx_commit(bs);

    return places_tell(bs, ret, errp);
}

/* -- While requests go on -- */

/* Step 1; the image is reserved. */
static int coroutine_fn GRAPH_RDLOCK
live_reserve(BlockDriverState *bs, Fix *f, PreallocMode prealloc, Error **errp)
{
    uint64_t absent;
    int ret = blocks_walk(bs, NULL, &absent);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the BAT");
        return ret;
    }
    if (!absent) {
        return 0;
    }
    /* Whoever replays the log looks for free space, which only one may do. */
    ret = places_tell(bs, vhdx_begin(bs, VHDX_METADATA), errp) ?:
          places_check(bs, errp);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_placed_reserve(bs, absent, prealloc, &f->placed);
    return places_tell(bs, ret, errp);
}

/*
 * Let the first block from @at on that has no place have one, and move @at
 * behind it: to the end of the disk, if there is none.
 */
static int coroutine_fn GRAPH_RDLOCK
live_place(BlockDriverState *bs, uint64_t *at)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry, count, blocks;
    int ret;

    for (;;) {
        WITH_VHDX_LOCK_GUARD(s) {
            blocks = s->geo.blocks;
            ret = *at < blocks ? vhdx_bat_get_run(bs, *at, blocks - *at,
                                                  &entry, &count) : 0;
        }
        if (ret < 0 || *at >= blocks) {
            return ret;
        }
        if (!vhdx_bat_is_present(s, entry)) {
            break;
        }
        *at += count;
    }
    ret = vhdx_block_place(bs, (*at)++);
    VHDX_LOCK_GUARD(s);
    /* It may have gone with the end of the disk. */
    return ret == -EIO && *at > s->geo.blocks ? 0 : ret;
}

/* Step 2, in between which @user lets others go on, or says it is enough */
static int coroutine_fn GRAPH_RDLOCK
live_fix(BlockDriverState *bs, Fix *f, const VHDXCompactUser *user,
         Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t at = 0, blocks = s->geo.blocks;
    int ret = 0;

    while (ret == 0 && at < s->geo.blocks) {
        int64_t until = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + LIVE_NS;

        while (ret == 0 && at < s->geo.blocks &&
               qemu_clock_get_ns(QEMU_CLOCK_REALTIME) < until &&
               !user->move.stop(bs, user->move.opaque)) {
            ret = live_place(bs, &at);
        }
        if (ret < 0) {
            return places_tell(bs, ret, errp);
        }
        f->status_cb(bs, MIN(at, blocks), 2 * blocks, f->cb_opaque);
        ret = user->pause(bs, user->opaque);
        if (ret == -ECANCELED) {
            error_setg(errp, "Making the image fixed has been cancelled; "
                       "blocks that have got a place keep it");
        } else if (ret == 0) {
            ret = vhdx_begin_check(bs, errp);
        }
    }
    return ret ?: places_tell(bs, vhdx_commit(bs), errp);
}

/* -- With requests frozen -- */

/* [entries-first] */
static int coroutine_fn GRAPH_RDLOCK
fix_frozen(BlockDriverState *bs, Fix *f, PreallocMode prealloc, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t absent;
    int ret;

    ret = blocks_walk(bs, NULL, &absent);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the BAT");
        return ret;
    }
    if (s->params.leave_allocated && !absent &&
        prealloc == PREALLOC_MODE_OFF) {
        return 0;
    }
    ret = places_check(bs, errp);
    if (ret < 0) {
        return ret;
    }
    f->added = bitmap_try_new(s->geo.blocks);
    if (!f->added && s->geo.blocks) {
        error_setg(errp, "Out of memory");
        return -ENOMEM;
    }
    ret = blocks_fix(bs, f, absent, prealloc, errp);
    if (ret == 0 && !s->params.leave_allocated) {
        ret = flag_set(bs, true, errp);
    }
    if (ret < 0) {
        blocks_undo(bs, f);
    }
    g_free(f->added);
    return ret;
}

int coroutine_fn vhdx_subformat_fix(BlockDriverState *bs, PreallocMode prealloc,
                                    BlockDriverAmendStatusCB *status_cb,
                                    void *cb_opaque,
                                    const VHDXCompactUser *user, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    Fix f = {
        .status_cb = status_cb,
        .cb_opaque = cb_opaque,
    };
    int ret = 0;

    if (prealloc == PREALLOC_MODE_METADATA) {
        /* All entries are there in any case. */
        prealloc = PREALLOC_MODE_OFF;
    }
    if (user) {
        vhdx_request_reserve(s);
        ret = live_reserve(bs, &f, prealloc, errp);
        vhdx_request_unreserve(s);
        ret = ret ?: live_fix(bs, &f, user, errp);
    }
    if (ret == 0) {
        vhdx_request_freeze(s);
        f.done = user ? s->geo.blocks : 0;
        ret = fix_frozen(bs, &f, prealloc, errp);
        vhdx_request_thaw(s);
    }
    return ret;
}

int coroutine_fn vhdx_subformat_loosen(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    vhdx_request_freeze(s);
    if (s->params.leave_allocated) {
        ret = vhdx_begin(bs, VHDX_METADATA);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not begin to write");
        } else {
            ret = flag_set(bs, false, errp);
        }
    }
    vhdx_request_thaw(s);
    return ret;
}
