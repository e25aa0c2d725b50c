/*
 * VHDX: compaction
 *
 * Discards leave free space between the blocks of a file.  Compacting moves
 * blocks from its end into that space, and cuts off what is free then.
 *
 * How long the file will be is known beforehand: as long as all that is in it.
 * So there is a limit, and it takes one pass through the BAT to move each block
 * that ends behind the limit to the first free place before it; nothing has to
 * be sorted or kept in memory.
 *
 *   before   head BAT [1][ ][2][ ][ ][3][ ][4]
 *                                ^ limit
 *   after    head BAT [1][3][2][4]
 *
 * Where free places are shorter than a block, a block may find none.  The limit
 * is then raised by what can't be used.  As blocks are of one length this is
 * seldom so, and little is lost, unless an image was put together in an odd
 * way.  If it is more than a block, blocks slide together, which is in
 * compact-slide.c.
 *
 * A region behind the limit, as a resize leaves it, comes after the blocks,
 * which keep room for it, and so does a log.  A BAT that has more room than the
 * disk now needs is made shorter before.
 *
 * The first change opens the log: an image that is compact is not written to.
 *
 * Before all that, entries that keep a place which they do not use lose it, and
 * with "zeroes" so do blocks in which there is nothing but zeros.  What entries
 * behind the last block name is given up as well, and told.
 *
 * A child gives up sector bitmap blocks that it does not need, which is told in
 * compact-child.c, and the others move like blocks.  They are of one length,
 * and mostly a shorter one, so they move after the blocks.
 *
 * An image with an entry that is wrong, or with two blocks in one place, is
 * left alone.  Requests are frozen throughout: the image is qemu-img's then.
 * compact-live.c is for one that others use.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/compact.h"
#include "block/vhdx/dirty-store.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "block/vhdx/log-move.h"
#include "block/vhdx/move.h"
#include "block/vhdx/region.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"
#include "compact-int.h"

/*
 * How often blocks slide at most.  Once is enough, but for odd layouts in which
 * those that fill the gap leave a second one at the end.
 */
#define SLIDES          2

/* Give back the places that were taken for blocks of @set; none is in it. */
static void set_return(BDRVVHDXState *s, VHDXMoveSet *set)
{
    VHDX_LOCK_GUARD(s);
    for (unsigned i = 0; i < set->count; i++) {
        if (set->moves[i].to) {
            vhdx_space_return(s, set->moves[i].to, set->moves[i].held, false);
        }
    }
    set->count = 0;
}

int coroutine_fn
vhdx_compact_fill(BlockDriverState *bs, VHDXCompact *c, VHDXCompactFunc *func)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    c->set.count = 0;
    ret = vhdx_bat_walk(bs, c->next, s->geo.bat_entries, func, c);
    if (ret > 0) {
        /* There are more entries to look at. */
        return 0;
    }
    c->next = s->geo.bat_entries;
    if (ret < 0) {
        set_return(s, &c->set);
    }
    return ret;
}

bool coroutine_fn
vhdx_compact_try_single(BlockDriverState *bs, VHDXCompact *c, int ret)
{
    if (!vhdx_file_no_space(ret) || c->single ||
        vhdx_change_is_broken(bs->opaque)) {
        return false;
    }
    c->single = true;
    /* The host gets back what copies have taken, and blocks that have moved. */
    vhdx_space_reclaim(bs);
    return vhdx_commit(bs) == 0;
}

/* Add the present block of BAT entry @index, and return 1 if that is enough. */
static int set_add(BDRVVHDXState *s, VHDXCompact *c, uint64_t index,
                   uint64_t entry, uint64_t to)
{
    c->next = index + 1;
    return vhdx_move_add(s, &c->set, index, vhdx_bat_offset(entry), to) ||
           c->single ||
           (c->live && c->set.count * c->set.moves[0].held >= VHDX_LIVE_BYTES);
}

/* -- What loses its place -- */

int vhdx_compact_add_present(BlockDriverState *bs, uint64_t index,
                             const uint64_t *entries, uint64_t count,
                             void *opaque)
{
    bool bitmap;

    for (uint64_t i = 0; i < count; i++) {
        if (vhdx_bat_state(entries[i]) == VHDX_BLOCK_FULLY_PRESENT &&
            vhdx_compact_object(bs->opaque, index + i, entries[i], &bitmap) &&
            !bitmap &&
            set_add(bs->opaque, opaque, index + i, entries[i], 0)) {
            return 1;
        }
    }
    return 0;
}

/* Turn blocks full of zeros into the state ZERO. */
static int coroutine_fn GRAPH_RDLOCK
drop_zeroes(BlockDriverState *bs, VHDXCompact *c)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t dropped = 0;
    int ret;

    c->total = c->present;
    for (c->next = 0; c->next < s->geo.bat_entries;) {
        ret = vhdx_compact_fill(bs, c, vhdx_compact_add_present);
        if (ret < 0) {
            return ret;
        }
        ret = vhdx_move_drop_zeroes(bs, &c->set, &dropped);
        if (ret < 0) {
            return ret;
        }
        c->done += c->set.count;
        vhdx_compact_progress(bs, c);
    }
    c->present -= dropped;
    return vhdx_commit(bs);
}

/* -- Moving -- */

/* How many bytes BAT entry @index names that end behind the limit, or 0. */
static uint64_t behind_limit(BDRVVHDXState *s, VHDXCompact *c, uint64_t index,
                             uint64_t entry, bool *bitmap)
{
    uint64_t bytes = vhdx_compact_object(s, index, entry, bitmap);

    return vhdx_bat_offset(entry) + bytes > c->limit ? bytes : 0;
}

int vhdx_compact_count_behind(BlockDriverState *bs, uint64_t index,
                              const uint64_t *entries, uint64_t count,
                              void *opaque)
{
    VHDXCompact *c = opaque;
    bool bitmap;

    for (uint64_t i = 0; i < count; i++) {
        c->total += behind_limit(bs->opaque, c, index + i, entries[i],
                                 &bitmap) != 0;
    }
    return 0;
}

int vhdx_compact_add_behind(BlockDriverState *bs, uint64_t index,
                            const uint64_t *entries, uint64_t count,
                            void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCompact *c = opaque;

    for (uint64_t i = 0; i < count; i++) {
        bool bitmap;
        uint64_t bytes = behind_limit(s, c, index + i, entries[i], &bitmap);
        uint64_t to;

        if (!bytes || bitmap != c->small) {
            continue;
        }
        WITH_VHDX_LOCK_GUARD(s) {
            to = vhdx_space_take_below(s, bytes, c->limit);
        }
        if (!to) {
            c->stuck = true;
            c->next = index + i;
            return 1;
        }
        if (set_add(s, c, index + i, entries[i], to)) {
            return 1;
        }
    }
    return 0;
}

/*
 * Move all payload blocks behind the limit, or all sector bitmap blocks if
 * @c->small; where that can't be, raise it.
 */
static int coroutine_fn GRAPH_RDLOCK
move_down_some(BlockDriverState *bs, VHDXCompact *c)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    for (c->next = 0; c->next < s->geo.bat_entries;) {
        uint64_t first = c->next;

        c->stuck = false;
        ret = vhdx_compact_fill(bs, c, vhdx_compact_add_behind);
        if (ret < 0) {
            return ret;
        }
        ret = vhdx_move_blocks(bs, &c->set);
        if (vhdx_compact_try_single(bs, c, ret)) {
            c->next = first;
            continue;
        }
        if (ret < 0) {
            return ret;
        }
        c->done += c->set.count;
        vhdx_compact_progress(bs, c);
        if (c->stuck) {
            VHDX_LOCK_GUARD(s);
            c->limit += MAX(c->limit - vhdx_space_count_used(s, 0, c->limit),
                            VHDX_MIB);
        }
    }
    return 0;
}

/* Move all blocks behind the limit; where that can't be, raise it. */
static int coroutine_fn GRAPH_RDLOCK
move_down(BlockDriverState *bs, VHDXCompact *c)
{
    int ret;

    c->small = false;
    ret = move_down_some(bs, c);
    if (ret == 0 && c->bitmaps) {
        /* They fit into gaps that are too short for others. */
        c->small = true;
        ret = move_down_some(bs, c);
    }
    return ret;
}

/* -- All of it -- */

/*
 * Move blocks until a file of @packed bytes, or less than a block more, could
 * have them all.
 */
static int coroutine_fn GRAPH_RDLOCK
move_blocks(BlockDriverState *bs, VHDXCompact *c, uint64_t packed)
{
    BDRVVHDXState *s = bs->opaque;
    unsigned slides = SLIDES;
    uint64_t limit;
    int ret;

    for (;;) {
        c->limit = limit = vhdx_compact_limit(s, packed);
        ret = move_down(bs, c);
        if (ret < 0 || c->limit < limit + s->geo.block_size || !slides--) {
            return ret;
        }
        c->total = c->done + c->present + c->bitmaps;
        /* No gap gets past a region, but a region gets past a gap. */
        ret = vhdx_region_lower_all(bs, 0, UINT64_MAX);
        if (ret < 0) {
            break;
        }
        ret = vhdx_compact_slide(bs, c);
        if (ret < 0) {
            break;
        }
    }
    if (vhdx_file_no_space(ret)) {
        /* Without space to move blocks up the file is as long as it was. */
        c->set.count = 0;
        return 0;
    }
    return ret;
}

/*
 * Move regions and the log down, as often as one of them leaves a gap that
 * another one has use for.  Without space they stay.
 */
static int coroutine_fn GRAPH_RDLOCK
parts_lower(BlockDriverState *bs, uint64_t packed)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t before;
    int ret;

    do {
        uint64_t limit = vhdx_compact_limit(s, packed);
        uint64_t far = vhdx_compact_far(s, packed);

        before = vhdx_compact_height(s);
        ret = vhdx_region_lower_all(bs, limit, far) ?:
              vhdx_log_lower(bs, limit, far);
    } while (ret == 0 && vhdx_compact_height(s) < before);
    return vhdx_file_no_space(ret) ? 0 : ret;
}

/* Bring what is in the file together, and cut it. */
static int coroutine_fn GRAPH_RDLOCK pack(BlockDriverState *bs, VHDXCompact *c)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t packed = vhdx_compact_packed(s, c->present, c->bitmaps);
    uint64_t limit = vhdx_compact_limit(s, packed);
    int ret;

    c->phase = c->phases - 1;
    c->done = c->total = 0;
    c->limit = limit;
    ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, vhdx_compact_count_behind,
                        c);
    if (ret < 0) {
        return ret;
    }
    if (c->total) {
        ret = move_blocks(bs, c, packed);
        if (ret < 0) {
            return ret;
        }
    }
    ret = parts_lower(bs, packed);
    if (ret < 0) {
        return ret;
    }
    if (vhdx_space_end(s) < vhdx_file_size(s)) {
        ret = vhdx_begin(bs, VHDX_METADATA);
        if (ret < 0) {
            return ret;
        }
    }
    /* If there was nothing to do, no log has been opened. */
    return vhdx_log_close(bs);
}

/* Know what of the file is free, and that no two blocks are in one place. */
static int coroutine_fn GRAPH_RDLOCK
find_space(BlockDriverState *bs, VHDXCompact *c)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t packed, used;
    int ret;

    qemu_co_mutex_lock(&s->grow_lock);
    ret = vhdx_space_scan(bs);
    qemu_co_mutex_unlock(&s->grow_lock);
    if (ret < 0) {
        return ret;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        used = vhdx_space_count_used(s, 0, UINT64_MAX);
        packed = vhdx_compact_packed(s, c->present, c->bitmaps);
    }
    if (used != packed) {
        error_setg(c->errp, "Blocks overlap in the file: %" PRIu64 " bytes are "
                   "in use where %" PRIu64 " should be", used, packed);
        return -EINVAL;
    }
    return 0;
}

/* The steps, with requests frozen. */
static int coroutine_fn GRAPH_RDLOCK
compact_frozen(BlockDriverState *bs, VHDXCompact *c, bool zeroes)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    if (vhdx_replay_active(s)) {
        ret = vhdx_begin(bs, VHDX_METADATA);
        if (ret < 0) {
            return ret;
        }
    }
    /* What has been released so far gets free. */
    ret = vhdx_commit(bs);
    vhdx_space_reclaim(bs);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_compact_drop_places(bs, c);
    if (ret < 0) {
        return ret;
    }
    ret = find_space(bs, c);
    if (ret == 0 && s->params.has_parent) {
        ret = vhdx_compact_drop_bitmaps(bs, c);
    }
    if (ret < 0) {
        return ret;
    }
    if (zeroes) {
        ret = drop_zeroes(bs, c);
        if (ret < 0) {
            return ret;
        }
    }
    ret = vhdx_dirty_shorten_region(bs) ?: vhdx_region_shorten_bat(bs);
    if (ret < 0) {
        return ret;
    }
    return pack(bs, c);
}

int vhdx_compact_check(BDRVVHDXState *s, Error **errp)
{
    if (s->params.leave_allocated) {
        error_setg(errp, "A fixed image can't be compacted");
        return -ENOTSUP;
    }
    if (s->has_locator && !s->params.has_parent) {
        error_setg(errp, "Could not compact the image: it has a Parent "
                   "Locator, but HasParent of File Parameters is 0");
        return -EINVAL;
    }
    return 0;
}

/* [move-frozen] */
int coroutine_fn vhdx_co_compact(BlockDriverState *bs, bool zeroes,
                                 BlockDriverAmendStatusCB *status_cb,
                                 void *cb_opaque, Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    g_autofree VHDXCompact *c = g_new0(VHDXCompact, 1);
    int ret;

    *c = (VHDXCompact) {
        .status_cb = status_cb,
        .cb_opaque = cb_opaque,
        .phases = zeroes ? 2 : 1,
        .errp = errp,
    };

    vhdx_request_freeze(s);
    ret = compact_frozen(bs, c, zeroes);
    vhdx_request_thaw(s);

    if (ret < 0 && *errp) {
        error_append_hint(errp, "Run 'qemu-img check' for details.\n");
    } else if (ret < 0) {
        vhdx_move_tell(&c->set, ret, errp);
    }
    if (ret < 0) {
        error_prepend(errp, "Could not compact the image: ");
    }
    return ret;
}
