/*
 * VHDX: compaction while requests go on
 *
 * What compact.c does with requests frozen throughout is done here in batches,
 * of some MiB or a block.  A batch reserves the image: nobody else freezes
 * requests meanwhile, so that a resize, for example, comes before it or after.
 * In between anything may happen.  So nothing that was seen before a batch is
 * believed in it, but the number of the BAT entry to go on with, and how far it
 * has got.  The limit is found anew each time, from what is in use then, and
 * new blocks of the guest fill free space as well.
 *
 *   pause -> reserve -> look at the image, what is free -> a batch -> unreserve
 *     ^                                                                  |
 *     +------------------------------------------------------------------+
 *
 * Payload blocks move while they are used, see move-live.c.  Sector bitmap
 * blocks and regions are metadata, of which the log has parts: all is put in
 * place before requests are held off, and then what has come in the meantime.
 * A long region would take too long, and stays; so does a block for which there
 * is no place, as sliding needs all to stand still.  The log moves at the end,
 * by being closed: what comes next opens one in the new place.
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
#include "block/vhdx/compact-live.h"
#include "block/vhdx/dirty-store.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log-move.h"
#include "block/vhdx/region.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"
#include "compact-int.h"

/* A region that is longer does not move while requests wait for it. */
#define REGION_MAX      (8 * MiB)

/* How often the blocks are gone through, as others free and use space */
#define PASSES          4

/* A compaction, and who wants it */
typedef struct Live {
    VHDXCompact c;
    const VHDXCompactUser *user;
    uint64_t moved;                 /* in this pass */
} Live;

/* A batch, of BAT entries from @l->c.next on */
typedef int coroutine_fn Batch(BlockDriverState *bs, Live *l);

/*
 * Let the log be replayed, if it is not yet.  Whoever does so finds out what is
 * free at the end, and would not know of places that a batch has taken: that is
 * over then, too.
 */
static int coroutine_fn GRAPH_RDLOCK live_replay(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    bool active;

    qemu_co_mutex_lock(&s->commit_lock);
    active = vhdx_replay_active(s);
    qemu_co_mutex_unlock(&s->commit_lock);
    return active ? vhdx_begin(bs, VHDX_METADATA) : 0;
}

/*
 * Reserve the image, see whether it still can be compacted, and know what is
 * free.  Returns 0, or -errno and it is not reserved.
 */
static int coroutine_fn GRAPH_RDLOCK live_begin(BlockDriverState *bs, Live *l)
{
    BDRVVHDXState *s = bs->opaque;
    bool overlap;
    int ret;

    vhdx_request_reserve(s);
    ret = vhdx_begin_check(bs, l->c.errp) ?:
          vhdx_compact_check(s, l->c.errp);
    if (ret == 0 && vhdx_change_is_broken(s)) {
        ret = -EIO;
    }
    ret = ret ?: live_replay(bs);
    if (ret == 0) {
        vhdx_space_reclaim(bs);
        qemu_co_mutex_lock(&s->grow_lock);
        ret = vhdx_space_know(bs);
        overlap = vhdx_space_overlaps(s);
        qemu_co_mutex_unlock(&s->grow_lock);
        if (ret == 0 && overlap) {
            error_setg(l->c.errp, "Blocks overlap in the file, or are longer "
                       "than its block size of %" PRIu32, s->geo.block_size);
            ret = -EINVAL;
        }
    }
    if (ret < 0) {
        vhdx_request_unreserve(s);
    }
    return ret;
}

/* How many bytes of the file are in use, or may be. */
static uint64_t live_used(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    return vhdx_space_count_used(s, 0, UINT64_MAX);
}

/* Do @batch until all of the BAT has been gone through, or nothing fits. */
static int coroutine_fn GRAPH_RDLOCK
live_pass(BlockDriverState *bs, Live *l, Batch *batch)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCompact *c = &l->c;
    int ret = 0;

    c->stuck = false;
    c->next = 0;
    while (ret == 0 && c->next < s->geo.bat_entries &&
           !(c->stuck && !c->set.count)) {
        uint64_t first = c->next;

        ret = l->user->pause(bs, l->user->opaque) ?: live_begin(bs, l);
        if (ret < 0) {
            break;
        }
        c->stuck = false;
        ret = batch(bs, l);
        vhdx_request_unreserve(s);
        if (ret == -EAGAIN || vhdx_compact_try_single(bs, c, ret)) {
            c->next = first;
            ret = 0;
            continue;
        }
        c->done += c->set.count;
        vhdx_compact_progress(bs, c);
    }
    return ret;
}

/* -- What is done in a batch -- */

static int coroutine_fn GRAPH_RDLOCK
batch_drop_zeroes(BlockDriverState *bs, Live *l)
{
    uint64_t dropped;
    int ret = vhdx_compact_fill(bs, &l->c, vhdx_compact_add_present);

    if (ret < 0 || !l->c.set.count) {
        return ret;
    }
    return vhdx_move_drop_zeroes_live(bs, &l->c.set, &l->user->move, &dropped);
}

static int coroutine_fn GRAPH_RDLOCK
batch_move(BlockDriverState *bs, Live *l)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t moved;
    int ret;

    l->c.limit = vhdx_compact_limit(s, live_used(s));
    ret = vhdx_compact_fill(bs, &l->c, vhdx_compact_add_behind);
    if (ret < 0 || !l->c.set.count) {
        return ret;
    }
    ret = vhdx_move_blocks_live(bs, &l->c.set, &l->user->move, &moved);
    l->moved += moved;
    return ret;
}

/* What a replay may write to is in place before requests have to wait. */
static int coroutine_fn GRAPH_RDLOCK
batch_move_bitmaps(BlockDriverState *bs, Live *l)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_begin(bs, VHDX_METADATA) ?: vhdx_commit_checkpoint(bs);

    if (ret < 0) {
        return ret;
    }
    vhdx_request_hold(s);
    l->c.limit = vhdx_compact_limit(s, live_used(s));
    ret = vhdx_compact_fill(bs, &l->c, vhdx_compact_add_behind);
    if (ret == 0) {
        ret = vhdx_move_blocks(bs, &l->c.set);
        l->moved += ret == 0 ? l->c.set.count : 0;
    }
    vhdx_request_let_go(s);
    return ret;
}

/* -- Regions, and the log -- */

/* Whether a region would have to move, and all that would are short enough. */
static bool regions_may_move(BDRVVHDXState *s, uint64_t limit)
{
    bool any = s->bat.length > vhdx_bat_region_length(&s->geo);

    if (s->bat.length > REGION_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < s->region_count; i++) {
        VHDXRegion *r = &s->regions[i];

        if (vhdx_region_is_known(r) && r->offset + r->length > limit) {
            if (r->length > REGION_MAX) {
                return false;
            }
            any = true;
        }
    }
    return any;
}

/* Of the log nothing is copied, however long it is. */
static bool log_may_move(BDRVVHDXState *s, uint64_t limit)
{
    return s->header.log_offset + s->header.log_length > limit;
}

/* Move regions and the log once; what one leaves another may have use for. */
static int coroutine_fn GRAPH_RDLOCK
parts_move(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t used = live_used(s);
    uint64_t limit = vhdx_compact_limit(s, used);
    uint64_t far = vhdx_compact_far(s, used);
    bool regions = regions_may_move(s, limit);
    int ret;

    if (!regions && !log_may_move(s, limit)) {
        return 0;
    }
    ret = vhdx_begin(bs, VHDX_METADATA) ?: vhdx_commit_checkpoint(bs);
    if (ret < 0) {
        return ret;
    }
    vhdx_request_hold(s);
    if (regions) {
        ret = vhdx_dirty_shorten_region(bs) ?: vhdx_region_shorten_bat(bs) ?:
              vhdx_region_lower_all(bs, limit, far);
    }
    ret = ret ?: vhdx_log_lower(bs, limit, far);
    vhdx_request_let_go(s);
    return vhdx_file_no_space(ret) ? 0 : ret;
}

/* -- All of it -- */

/* What comes before the first batch; the image is reserved. */
static int coroutine_fn GRAPH_RDLOCK live_prepare(BlockDriverState *bs, Live *l)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCompact *c = &l->c;
    int ret = vhdx_commit(bs) ?:
              vhdx_bat_walk(bs, 0, s->geo.bat_entries, vhdx_compact_count, c);

    if (ret < 0 || !c->unused || s->bat.length > REGION_MAX) {
        return ret;
    }
    ret = vhdx_compact_drop_unused(bs, c);
    if (ret < 0) {
        return ret;
    }
    /*
     * What they have named may be anything: a scan tells what is free.  It must
     * not miss a place that a request has, and that no entry is to name.
     */
    if (!vhdx_request_try_hold(s, l->user->move.hold_ns)) {
        vhdx_request_hold(s);
    }
    qemu_co_mutex_lock(&s->grow_lock);
    ret = vhdx_space_scan(bs);
    qemu_co_mutex_unlock(&s->grow_lock);
    vhdx_request_let_go(s);
    return ret;
}

/* Move blocks, as often as some get free behind the limit. */
static int coroutine_fn GRAPH_RDLOCK live_pack(BlockDriverState *bs, Live *l)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCompact *c = &l->c;
    int ret = 0;

    c->phase = c->phases - 1;
    for (unsigned i = 0; i < PASSES; i++) {
        c->done = c->total = l->moved = 0;
        ret = live_begin(bs, l);
        if (ret < 0) {
            break;
        }
        c->limit = vhdx_compact_limit(s, live_used(s));
        ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries,
                            vhdx_compact_count_behind, c);
        vhdx_request_unreserve(s);
        if (ret < 0 || !c->total) {
            break;
        }
        c->small = false;
        ret = live_pass(bs, l, batch_move);
        if (ret == 0 && c->bitmaps) {
            c->small = true;
            ret = live_pass(bs, l, batch_move_bitmaps);
        }
        if (ret < 0 || !l->moved) {
            break;
        }
    }
    return ret;
}

/* Cut off what is free at the end; the image is reserved. */
static int coroutine_fn GRAPH_RDLOCK live_finish(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t before;
    bool longer;
    int ret;

    do {
        before = vhdx_compact_height(s);
        ret = parts_move(bs) ?: vhdx_commit(bs);
    } while (ret == 0 && vhdx_compact_height(s) < before);

    WITH_VHDX_LOCK_GUARD(s) {
        longer = vhdx_space_end(s) < vhdx_file_size(s);
    }
    if (ret == 0 && longer) {
        ret = vhdx_begin(bs, VHDX_METADATA);
    }
    if (ret == 0) {
        vhdx_commit_cut(bs);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
compact_live(BlockDriverState *bs, Live *l, bool zeroes)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = live_begin(bs, l);

    if (ret < 0) {
        return ret;
    }
    ret = live_prepare(bs, l);
    vhdx_request_unreserve(s);
    if (ret == 0 && zeroes) {
        l->c.total = l->c.present;
        ret = live_pass(bs, l, batch_drop_zeroes);
    }
    ret = ret ?: live_pack(bs, l) ?: l->user->pause(bs, l->user->opaque) ?:
          live_begin(bs, l);
    if (ret < 0) {
        return ret;
    }
    ret = live_finish(bs);
    vhdx_request_unreserve(s);
    if (ret == 0) {
        l->c.phase = l->c.phases - 1;
        l->c.done = l->c.total = 1;
        vhdx_compact_progress(bs, &l->c);
    }
    return ret;
}

/* Whether nobody compacts @s, who does from now on. */
static bool live_claim(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    if (s->compacting) {
        return false;
    }
    s->compacting = true;
    return true;
}

int coroutine_fn
vhdx_co_compact_live(BlockDriverState *bs, bool zeroes,
                     const VHDXCompactUser *user, Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    g_autofree Live *l = g_new0(Live, 1);
    int ret;

    if (!live_claim(s)) {
        error_setg(errp, "The image is being compacted already");
        return -EBUSY;
    }
    *l = (Live) {
        .user = user,
        .c = {
            .status_cb = user->status,
            .cb_opaque = user->opaque,
            .phases = zeroes ? 2 : 1,
            .live = true,
            .errp = errp,
        },
    };
    ret = compact_live(bs, l, zeroes);
    if (ret < 0 && !qatomic_read(&bs->quiesce_counter)) {
        /*
         * What has got free until then is given back all the same; in a drained
         * section, where nothing may begin, by whoever closes the image.
         */
        vhdx_request_reserve(s);
        vhdx_commit_cut(bs);
        vhdx_request_unreserve(s);
    }
    WITH_VHDX_LOCK_GUARD(s) {
        s->compacting = false;
    }
    if (ret == -ECANCELED) {
        error_setg(errp, "Compacting has been cancelled");
    } else if (ret < 0) {
        if (!*errp) {
            vhdx_move_tell(&l->c.set, ret, errp);
        }
        error_prepend(errp, "Could not compact the image: ");
    }
    return ret;
}
