/*
 * VHDX: a shorter file
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
 * way.  If it is more than a block, blocks with such a gap before them are
 * moved out of the way, to the end, and it is tried again.
 *
 * A region behind the limit, as a resize leaves it, comes after the blocks,
 * which keep room for it.  A BAT that has more room than the disk now needs is
 * made shorter before.
 *
 * Before all that, entries that keep a place which they do not use lose it, and
 * with "zeroes" so do blocks in which there is nothing but zeros.
 *
 * An image with an entry that is wrong, or with two blocks in one place, is
 * left alone.  Requests are frozen throughout: the image is qemu-img's then.
 * (A block status that was told before tells of a place that may be gone.  So
 * this is not for an image that others use.)
 *
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "block/vhdx.h"

/* Progress is told in such parts of a phase. */
#define PROGRESS_PARTS  10000

typedef struct Compact {
    BlockDriverAmendStatusCB *status_cb;
    void *cb_opaque;
    unsigned phase, phases;
    uint64_t done, total;           /* blocks, in this phase */

    uint64_t present;               /* blocks */
    uint64_t unused;                /* entries with a place they do not use */
    uint64_t limit;                 /* blocks shall end here, bytes */
    uint64_t next;                  /* the BAT entry to go on with */
    bool stuck;                     /* there is no place for its block */
    VHDXBatch batch;
    Error **errp;
} Compact;

static void progress(BlockDriverState *bs, Compact *c)
{
    uint64_t parts = c->phase * PROGRESS_PARTS;

    if (c->total) {
        parts += PROGRESS_PARTS * c->done / c->total;
    }
    c->status_cb(bs, parts, c->phases * PROGRESS_PARTS, c->cb_opaque);
}

/*
 * Fill the batch from entry @c->next on by @func, which returns 1 when there is
 * enough.
 */
static int coroutine_fn GRAPH_RDLOCK
batch_fill(BlockDriverState *bs, Compact *c,
           int (*func)(BlockDriverState *bs, uint64_t index,
                       const uint64_t *entries, uint64_t count, void *opaque))
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    c->batch.count = 0;
    ret = vhdx_bat_walk(bs, c->next, s->geo.bat_entries, func, c);
    if (ret == 0) {
        c->next = s->geo.bat_entries;
    }
    return MIN(ret, 0);
}

/* Add the present block of BAT entry @index, and return 1 if that is enough. */
static int batch_add(BDRVVHDXState *s, Compact *c, uint64_t index,
                     uint64_t entry, uint64_t to)
{
    c->next = index + 1;
    return vhdx_batch_add(s, &c->batch, index, vhdx_bat_offset(entry), to);
}

/* -- What loses its place -- */

/* Which blocks there are, and whether all is well with them. */
static int count_entries(BlockDriverState *bs, uint64_t index,
                         const uint64_t *entries, uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    Compact *c = opaque;

    QEMU_LOCK_GUARD(&s->lock);
    for (uint64_t i = 0; i < count; i++) {
        int ret = vhdx_bat_entry_check(s, index + i, entries[i], c->errp);

        if (ret < 0) {
            return ret;
        }
        if (vhdx_bat_state(entries[i]) == VHDX_BLOCK_FULLY_PRESENT) {
            c->present++;
        } else if (vhdx_bat_offset(entries[i])) {
            c->unused++;
        }
    }
    return 0;
}

/*
 * Drop the places that entries name without using them.  Such an offset may be
 * anything, so what is free now is for a scan to find.
 */
static int coroutine_fn GRAPH_RDLOCK
drop_unused(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
            uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    for (uint64_t i = 0; i < count && ret == 0; i++) {
        uint64_t block, entry;

        if (!vhdx_bat_offset(entries[i]) ||
            vhdx_bat_state(entries[i]) == VHDX_BLOCK_FULLY_PRESENT ||
            vhdx_bat_index_is_bitmap(&s->geo, index + i, &block)) {
            continue;
        }
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            /* What comes back is without the offset. */
            ret = vhdx_bat_get(bs, block, &entry);
            if (ret == 0) {
                vhdx_bat_set(s, block, entry);
                s->write_gen++;
            }
        }
    }
    return ret < 0 ? ret : vhdx_log_commit(bs);
}

static int add_present(BlockDriverState *bs, uint64_t index,
                       const uint64_t *entries, uint64_t count, void *opaque)
{
    for (uint64_t i = 0; i < count; i++) {
        if (vhdx_bat_state(entries[i]) == VHDX_BLOCK_FULLY_PRESENT &&
            batch_add(bs->opaque, opaque, index + i, entries[i], 0)) {
            return 1;
        }
    }
    return 0;
}

/* Turn blocks full of zeros into the state ZERO. */
static int coroutine_fn GRAPH_RDLOCK
drop_zeroes(BlockDriverState *bs, Compact *c)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t dropped = 0;
    int ret = 0;

    c->total = c->present;
    for (c->next = 0; c->next < s->geo.bat_entries && ret == 0;) {
        ret = batch_fill(bs, c, add_present);
        if (ret == 0) {
            ret = vhdx_batch_drop_zeroes(bs, &c->batch, &dropped);
        }
        c->done += c->batch.count;
        progress(bs, c);
    }
    c->present -= dropped;
    return ret < 0 ? ret : vhdx_log_commit(bs);
}

/* -- Moving -- */

static bool is_behind(BDRVVHDXState *s, Compact *c, uint64_t entry)
{
    return vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT &&
           vhdx_bat_offset(entry) + s->geo.block_size > c->limit;
}

static int count_behind(BlockDriverState *bs, uint64_t index,
                        const uint64_t *entries, uint64_t count, void *opaque)
{
    Compact *c = opaque;

    for (uint64_t i = 0; i < count; i++) {
        c->total += is_behind(bs->opaque, c, entries[i]);
    }
    return 0;
}

static int add_behind(BlockDriverState *bs, uint64_t index,
                      const uint64_t *entries, uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    Compact *c = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t to;

        if (!is_behind(s, c, entries[i])) {
            continue;
        }
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            to = vhdx_space_take_below(s, s->geo.block_size, c->limit);
        }
        if (!to) {
            c->stuck = true;
            c->next = index + i;
            return 1;
        }
        if (batch_add(s, c, index + i, entries[i], to)) {
            return 1;
        }
    }
    return 0;
}

/* Move all blocks behind the limit; where that can't be, raise it. */
static int coroutine_fn GRAPH_RDLOCK
move_down(BlockDriverState *bs, Compact *c)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    for (c->next = 0; c->next < s->geo.bat_entries && ret == 0;) {
        c->stuck = false;
        ret = batch_fill(bs, c, add_behind);
        if (ret == 0) {
            ret = vhdx_batch_move(bs, &c->batch);
        }
        c->done = MIN(c->done + c->batch.count, c->total);
        progress(bs, c);
        if (c->stuck) {
            QEMU_LOCK_GUARD(&s->lock);
            c->limit += MAX(c->limit - vhdx_space_used(s, 0, c->limit),
                            VHDX_MIB);
        }
    }
    return ret;
}

/* Blocks with free space before them; their places come later. */
static int add_after_gap(BlockDriverState *bs, uint64_t index,
                         const uint64_t *entries, uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t offset = vhdx_bat_offset(entries[i]);
        bool used = true;

        if (vhdx_bat_state(entries[i]) == VHDX_BLOCK_FULLY_PRESENT) {
            QEMU_LOCK_GUARD(&s->lock);
            used = vhdx_space_used(s, offset - VHDX_MIB, offset);
        }
        if (!used && batch_add(s, opaque, index + i, entries[i], 0)) {
            return 1;
        }
    }
    return 0;
}

/*
 * Move some blocks that have a gap before them to the end of the file, so that
 * there is room for one where they are.
 */
static int coroutine_fn GRAPH_RDLOCK
move_up(BlockDriverState *bs, Compact *c)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXBatch *batch = &c->batch;
    int64_t offset = 0;
    int ret;

    c->next = 0;
    ret = batch_fill(bs, c, add_after_gap);
    for (unsigned i = 0; i < batch->count && ret == 0; i++) {
        bool zero;

        WITH_QEMU_LOCK_GUARD(&s->lock) {
            offset = vhdx_space_alloc(bs, s->geo.block_size, &zero);
        }
        if (offset < 0) {
            /* With those that there is space for */
            batch->count = i;
            ret = i ? 0 : offset;
        } else {
            batch->moves[i].to = offset;
        }
    }
    return ret < 0 ? ret : vhdx_batch_move(bs, batch);
}

/*
 * Move blocks until they all end at @limit, or less than a block behind it, if
 * that can be.
 */
static int coroutine_fn GRAPH_RDLOCK
move_blocks(BlockDriverState *bs, Compact *c, uint64_t limit)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    for (;;) {
        c->limit = limit;
        ret = move_down(bs, c);
        if (ret < 0 || c->limit <= limit + s->geo.block_size) {
            return ret;
        }
        ret = move_up(bs, c);
        if (ret == -ENOSPC || !c->batch.count) {
            /* It is shorter than it was. */
            return 0;
        }
        if (ret < 0) {
            return ret;
        }
    }
}

/* Move @region to @length bytes at the file offset @to, taken for it. */
static int coroutine_fn GRAPH_RDLOCK
move_region(BlockDriverState *bs, VHDXRegion *region, uint64_t to,
            uint32_t length, bool zero)
{
    int ret = vhdx_region_move(bs, region, to, length, zero);

    return ret < 0 ? ret : vhdx_log_commit(bs);
}

/*
 * Where the disk was larger once, let the BAT have the length that it has in a
 * new image.
 */
static int coroutine_fn GRAPH_RDLOCK shorten_bat(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint32_t length = vhdx_bat_region_length(&s->geo);
    VHDXRegion *bat = s->regions;
    int ret;

    while (!vhdx_guid_equal(&bat->guid, &vhdx_region_bat)) {
        bat++;
    }
    if (bat->length <= length) {
        return 0;
    }
    ret = vhdx_log_begin(bs, false);
    return ret < 0 ? ret : move_region(bs, bat, bat->offset, length, false);
}

/* The first free place before that of @region, taken for it, or 0. */
static uint64_t place_before(BDRVVHDXState *s, const VHDXRegion *region)
{
    QEMU_LOCK_GUARD(&s->lock);
    return vhdx_space_take_below(s, region->length, region->offset);
}

/*
 * Move @region down.  Where it would overlap itself it has to go up before; for
 * less than a block that is not done.
 */
static int coroutine_fn GRAPH_RDLOCK
lower_region(BlockDriverState *bs, VHDXRegion *region, uint64_t packed)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t to = place_before(s, region);
    int64_t up;
    bool zero;
    int ret;

    if (!to) {
        if (region->offset + region->length <= packed + s->geo.block_size) {
            return 0;
        }
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            up = vhdx_space_alloc(bs, region->length, &zero);
        }
        ret = up < 0 ? up : move_region(bs, region, up, region->length, zero);
        if (ret < 0) {
            return ret;
        }
        to = place_before(s, region);
    }
    return to ? move_region(bs, region, to, region->length, false) : 0;
}

/* -- All of it -- */

static bool region_can_move(const VHDXRegion *region)
{
    return vhdx_guid_equal(&region->guid, &vhdx_region_bat) ||
           vhdx_guid_equal(&region->guid, &vhdx_region_metadata);
}

/*
 * Where blocks shall end in a file of @packed bytes: before whatever else is
 * behind that, which then has room after them.
 */
static uint64_t block_limit(BDRVVHDXState *s, uint64_t packed)
{
    uint64_t limit, last = packed;

    do {
        limit = last;
        last = packed;
        if (s->header.log_offset + s->header.log_length > limit) {
            last -= s->header.log_length;
        }
        for (uint32_t i = 0; i < s->region_count; i++) {
            if (s->regions[i].offset + s->regions[i].length > limit) {
                last -= s->regions[i].length;
            }
        }
    } while (last != limit);
    return limit;
}

/* How long a file is with all objects, @blocks payload blocks and no gap. */
static uint64_t packed_size(BDRVVHDXState *s, uint64_t blocks)
{
    uint64_t size = VHDX_HEADER_SECTION_SIZE + s->header.log_length +
                    (blocks << s->geo.block_bits);

    for (uint32_t i = 0; i < s->region_count; i++) {
        size += s->regions[i].length;
    }
    return size;
}

/* Bring what is in the file together, and cut it. */
static int coroutine_fn GRAPH_RDLOCK pack(BlockDriverState *bs, Compact *c)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t packed = packed_size(s, c->present);
    uint64_t limit = block_limit(s, packed);
    int ret;

    c->phase = c->phases - 1;
    c->done = c->total = 0;
    c->limit = limit;
    ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, count_behind, c);
    if (ret == 0 && !c->total && limit == packed && !s->log.open &&
        s->space.end >= s->space.size) {
        /* There is nothing to be done. */
        return 0;
    }
    if (ret == 0) {
        ret = vhdx_log_begin(bs, false);
    }
    if (ret == 0 && c->total) {
        ret = move_blocks(bs, c, limit);
    }
    for (uint32_t i = 0; i < s->region_count && ret == 0; i++) {
        VHDXRegion *region = &s->regions[i];

        if (region_can_move(region) &&
            region->offset + region->length > limit) {
            ret = lower_region(bs, region, packed);
        }
    }
    return ret < 0 ? ret : vhdx_log_close(bs);
}

/* Know what of the file is free, and that no two blocks are in one place. */
static int coroutine_fn GRAPH_RDLOCK
find_space(BlockDriverState *bs, Compact *c)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t packed = packed_size(s, c->present);
    uint64_t used;
    int ret;

    qemu_co_mutex_lock(&s->grow_lock);
    ret = vhdx_space_scan(bs);
    qemu_co_mutex_unlock(&s->grow_lock);
    if (ret < 0) {
        return ret;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        used = vhdx_space_used(s, 0, UINT64_MAX);
    }
    if (used != packed) {
        error_setg(c->errp, "Blocks overlap in the file: %" PRIu64 " bytes are "
                   "in use where %" PRIu64 " should be", used, packed);
        return -EINVAL;
    }
    return 0;
}

int coroutine_fn vhdx_co_compact(BlockDriverState *bs, bool zeroes,
                                 BlockDriverAmendStatusCB *status_cb,
                                 void *cb_opaque, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    ERRP_GUARD();
    g_autofree Compact *c = g_new0(Compact, 1);
    int ret = 0;

    if (s->params.leave_allocated) {
        error_setg(errp, "Only a dynamic image can be compacted, and this one "
                   "is fixed");
        return -ENOTSUP;
    }
    *c = (Compact) {
        .status_cb = status_cb,
        .cb_opaque = cb_opaque,
        .phases = zeroes ? 2 : 1,
        .errp = errp,
    };

    vhdx_io_freeze(s);
    if (vhdx_replay_active(s)) {
        ret = vhdx_log_begin(bs, false);
    }
    if (ret == 0) {
        /* What has been freed until now gets free. */
        ret = vhdx_log_commit(bs);
        vhdx_space_reclaim(bs);
    }
    if (ret == 0) {
        ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, count_entries, c);
    }
    if (ret == 0 && c->unused) {
        ret = vhdx_log_begin(bs, false);
        if (ret == 0) {
            ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, drop_unused, NULL);
        }
    }
    if (ret == 0) {
        ret = find_space(bs, c);
    }
    if (ret == 0 && zeroes) {
        ret = drop_zeroes(bs, c);
    }
    if (ret == 0) {
        ret = shorten_bat(bs);
    }
    if (ret == 0) {
        ret = pack(bs, c);
    }
    vhdx_io_thaw(s);

    if (ret < 0 && *errp) {
        error_prepend(errp, "Could not compact the image: ");
        error_append_hint(errp, "'qemu-img check' tells all that is wrong.\n");
    } else if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not compact the image");
    }
    return ret;
}
