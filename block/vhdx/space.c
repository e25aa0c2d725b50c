/*
 * VHDX: places for new blocks, and a longer file
 *
 * New blocks are appended.  The file is made longer in steps of several blocks
 * at a time, and what a step gains reads as zeros, which is why a block put
 * there needs no zeroing of its own and no flush before the BAT entry that
 * names it.  Closing the image cuts off what was not needed.  So does a commit
 * where as much is free at the end as a step would gain: first a stable log
 * entry says that the file ends earlier, then it is cut, and that is flushed
 * before it may grow again, or else a power cut could bring old bytes back
 * into what is taken for zeros.  To cut is thrift: where that can't be done, or
 * where nobody knows whether it has been, things go on, and what may be left of
 * the tail is not known to be zero.
 *
 * A node that can't grow, a device for instance, has what lies inside.  Whether
 * it can is known by trying: before it is said that there is no space the
 * length is read anew, as the device may be longer by now, and growth is tried.
 * After any change of the length that fails it is read anew as well, as that
 * may have taken effect.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/change.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-map.h"
#include "block/vhdx/space-scan.h"
#include "space-int.h"
#include "trace.h"

/*
 * The file grows by an eighth of its length, within these bounds, and by eight
 * blocks at least.  Until data is written there this takes no space of the
 * host.
 */
#define GROW_MIN        (16 * MiB)
#define GROW_MAX        GiB
#define GROW_BLOCKS     8

/* A place with more stretches of data and holes is zeroed as a whole. */
#define MAX_STRETCHES   64

void vhdx_space_init(BDRVVHDXState *s, uint64_t size)
{
    s->space = g_new(VHDXSpace, 1);
    *s->space = (VHDXSpace) {
        .end = ROUND_UP(size, VHDX_MIB),
        .keep = size,
        .zero_from = UINT64_MAX,
        .free_end = UINT64_MAX,
        .punch_from = UINT64_MAX,
        .freed = g_array_new(false, false, sizeof(VHDXFreed)),
        .committing = g_array_new(false, false, sizeof(VHDXFreed)),
        .committed = g_array_new(false, false, sizeof(VHDXFreed)),
    };
}

void vhdx_space_free(BDRVVHDXState *s)
{
    VHDXSpace *sp = g_steal_pointer(&s->space);

    g_array_unref(sp->freed);
    g_array_unref(sp->committing);
    g_array_unref(sp->committed);
    g_free(sp->used);
    g_free(sp->kept);
    g_free(sp->punch);
    g_free(sp);
}

void vhdx_space_replayed(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    s->space->end = ROUND_UP(vhdx_file_size(s), VHDX_MIB);
    s->space->keep = vhdx_file_size(s);
}

void vhdx_space_set_end(BDRVVHDXState *s, uint64_t end)
{
    vhdx_assert_locked(s);
    s->space->end = end;
    s->space->keep = 0;
}

void vhdx_space_keep_less(BDRVVHDXState *s, uint64_t bytes)
{
    vhdx_assert_locked(s);
    s->space->keep -= MIN(s->space->keep, bytes);
}

uint64_t vhdx_space_end(BDRVVHDXState *s)
{
    return s->space->end;
}

bool vhdx_space_is_known(BDRVVHDXState *s)
{
    return s->space->scanned;
}

bool vhdx_space_overlaps(BDRVVHDXState *s)
{
    return s->space->overlap;
}

uint64_t vhdx_space_lost(BDRVVHDXState *s)
{
    return s->space->lost;
}

void vhdx_space_note_damage(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    s->space->damaged = true;
}

uint64_t vhdx_space_grow_step(BDRVVHDXState *s, uint64_t size)
{
    uint64_t step = MAX(MIN(MAX(size / 8, GROW_MIN), GROW_MAX),
                        GROW_BLOCKS * (uint64_t)s->geo.block_size);

    return QEMU_ALIGN_UP(step, VHDX_MIB);
}

int coroutine_fn vhdx_space_measure(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = s->space;
    int64_t size = vhdx_file_length(bs);

    if (size < 0) {
        return size;
    }
    VHDX_LOCK_GUARD(s);
    if (size > vhdx_file_size(s) && sp->zero_from != UINT64_MAX) {
        sp->zero_from = MAX(sp->zero_from, size);
    }
    vhdx_file_set_size(s, size);
    return 0;
}

/* Make the file at least @size bytes long. */
static int coroutine_fn GRAPH_RDLOCK
file_grow(BlockDriverState *bs, uint64_t size, PreallocMode prealloc)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t old;
    bool zero = true;
    int ret;

    vhdx_assert_grow_locked(s);
    /* To ask for less than the file has would cut it. */
    ret = vhdx_space_measure(bs);
    if (ret < 0 || size <= vhdx_file_size(s)) {
        return ret;
    }
    if (vhdx_change_is_broken(s)) {
        /* The file may not have been cut, and have old bytes there. */
        return -EIO;
    }
    old = vhdx_file_size(s);
    BLKDBG_CO_EVENT(bs->file, BLKDBG_CLUSTER_ALLOC_SPACE);
    ret = vhdx_file_truncate(bs, size, prealloc, BDRV_REQ_ZERO_WRITE);
    if (ret == -ENOTSUP) {
        zero = false;
        ret = vhdx_file_truncate(bs, size, prealloc, 0);
    }
    trace_vhdx_space_grow(s, old, size, ret);
    if (ret < 0) {
        /* It may have taken effect all the same. */
        (void)vhdx_space_measure(bs);
        return ret;
    }
    VHDX_LOCK_GUARD(s);
    vhdx_file_set_size(s, size);
    vhdx_file_set_fixed(s, false);
    if (!zero) {
        s->space->zero_from = UINT64_MAX;
    } else if (s->space->zero_from == UINT64_MAX) {
        s->space->zero_from = old;
    }
    return 0;
}

/*
 * The result @ret of making the file longer: where the node can't grow, that is
 * lack of space.
 */
static int space_grown(BDRVVHDXState *s, int ret)
{
    if (vhdx_file_length_refused(ret)) {
        VHDX_LOCK_GUARD(s);
        vhdx_file_set_fixed(s, true);
        return -ENOSPC;
    }
    return ret;
}

/*
 * Make room: find out what is free, or have the file end at @end or behind it,
 * by a step if that works.  A node that could not grow may have become longer
 * by now, or able to.  grow_lock is held.
 */
static int coroutine_fn GRAPH_RDLOCK
space_extend(BlockDriverState *bs, uint64_t end)
{
    BDRVVHDXState *s = bs->opaque;
    bool known = s->space->scanned;
    int ret = vhdx_space_know(bs);

    vhdx_assert_grow_locked(s);
    if (ret == 0 && !known) {
        /* There may be a place now. */
        return 0;
    }
    if (ret < 0 && ret != -EOVERFLOW) {
        return ret;
    }
    ret = file_grow(bs, end + vhdx_space_grow_step(s, vhdx_file_size(s)),
                    PREALLOC_MODE_OFF);
    if (ret < 0) {
        ret = file_grow(bs, end, PREALLOC_MODE_OFF);
    }
    return space_grown(s, ret);
}

/*
 * Take a place of @bytes bytes that is known to be free, below the end or at
 * it.  lock is held.  Returns 0 if there is none now, or -EIO where there will
 * be none in this open, however long the file gets. [zero-known]
 */
static int64_t space_take(BDRVVHDXState *s, uint64_t bytes, bool *zero)
{
    VHDXSpace *sp = s->space;
    bool block = bytes == s->geo.block_size;
    uint64_t offset;

    vhdx_assert_locked(s);
    if (sp->damaged) {
        return -EIO;
    }
    if (sp->scanning) {
        return 0;
    }
    offset = vhdx_space_map_take(s, bytes, block ? sp->hint : 0,
                                 sp->end / VHDX_MIB);
    if (block && (offset || sp->end <= vhdx_file_size(s))) {
        /* What is behind the end of the file may be there later on. */
        sp->hint = (offset ? offset + bytes : sp->end) / VHDX_MIB;
    }
    if (!offset) {
        offset = sp->end;
        if (offset + bytes > vhdx_file_size(s)) {
            return 0;
        }
        vhdx_space_map_reach(sp, offset + bytes);
        sp->free_end = MAX(sp->free_end, sp->end);
    }
    *zero = offset >= sp->zero_from && vhdx_file_trusts_zeroes(s);
    trace_vhdx_space_take(s, offset, bytes, *zero);
    return offset;
}

void coroutine_fn vhdx_space_reserve_last_block(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry;
    int ret;

    vhdx_assert_commit_locked(s);
    VHDX_LOCK_GUARD(s);
    if (!s->geo.blocks || (s->space->scanned && !s->space->damaged)) {
        /* There is none, or the map has all of it. */
        return;
    }
    ret = vhdx_bat_get(bs, s->geo.blocks - 1, &entry);
    if (ret < 0) {
        /* It may lie at the end of the file. */
        vhdx_space_map_reach(s->space, s->space->end + s->geo.block_size);
    } else if (vhdx_bat_is_present(s, entry)) {
        vhdx_space_map_reach(s->space,
                             vhdx_bat_offset(entry) + s->geo.block_size);
    }
}

int coroutine_fn vhdx_space_extend_to(BlockDriverState *bs, uint64_t end)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    vhdx_assert_unlocked(s);
    qemu_co_mutex_lock(&s->grow_lock);
    if (end > vhdx_file_size(s)) {
        ret = vhdx_space_know(bs);
        if (ret == 0 || ret == -EOVERFLOW) {
            ret = space_grown(s, file_grow(bs, end, PREALLOC_MODE_OFF));
        }
    }
    qemu_co_mutex_unlock(&s->grow_lock);
    return ret;
}

/* How many of @most blocks find room between others. */
static uint64_t blocks_inside(BDRVVHDXState *s, uint64_t most)
{
    VHDXSpace *sp = s->space;
    uint64_t end, next, blocks = 0;

    VHDX_LOCK_GUARD(s);
    end = sp->used && !sp->scanning ? MIN(sp->end / VHDX_MIB, sp->used_bits) :
          0;
    for (uint64_t at = 0; at < end && blocks < most; at = next) {
        at = find_next_zero_bit(sp->used, end, at);
        next = find_next_bit(sp->used, end, at);
        blocks += (next - at) / (s->geo.block_size / VHDX_MIB);
    }
    return MIN(blocks, most);
}

int coroutine_fn vhdx_space_reserve(BlockDriverState *bs, uint64_t blocks,
                                    PreallocMode prealloc)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t end;
    int ret;

    vhdx_assert_unlocked(s);
    qemu_co_mutex_lock(&s->grow_lock);
    ret = vhdx_space_know(bs);
    if (ret == 0) {
        blocks -= blocks_inside(s, blocks);
        end = s->space->end + (blocks << s->geo.block_bits);
    }
    if (ret == 0 && end > vhdx_file_size(s)) {
        ret = file_grow(bs, end, prealloc);
        if (vhdx_file_length_refused(ret) && prealloc == PREALLOC_MODE_OFF) {
            /* There may be as much inside. */
            ret = 0;
        }
    }
    qemu_co_mutex_unlock(&s->grow_lock);
    return ret;
}

int coroutine_fn vhdx_space_take_kept(BlockDriverState *bs, uint64_t block,
                                      uint64_t offset)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = s->space;
    uint64_t first = offset / VHDX_MIB;
    uint64_t end = first + s->geo.block_size / VHDX_MIB;
    int ret = 0;

    vhdx_assert_locked(s);
    if (!offset || !vhdx_bat_in_file(s, block, offset)) {
        return 0;
    }
    if (!sp->scanned) {
        vhdx_unlock(s);
        qemu_co_mutex_lock(&s->grow_lock);
        ret = vhdx_space_know(bs);
        qemu_co_mutex_unlock(&s->grow_lock);
        vhdx_lock(s);
    }
    if (ret < 0) {
        /* In a file that is too long for a map a new place will do. */
        return ret == -EOVERFLOW ? 0 : ret;
    }
    if (sp->damaged) {
        return -EIO;
    }
    if (!sp->kept || sp->scanning || end > sp->kept_bits ||
        find_next_zero_bit(sp->kept, end, first) < end) {
        return 0;
    }
    bitmap_clear(sp->kept, first, end - first);
    return 1;
}

void vhdx_space_keep(BDRVVHDXState *s, uint64_t offset)
{
    VHDXSpace *sp = s->space;

    vhdx_assert_locked(s);
    if (sp->kept) {
        bitmap_set(sp->kept, offset / VHDX_MIB, s->geo.block_size / VHDX_MIB);
    }
}

uint64_t vhdx_space_take_below(BDRVVHDXState *s, uint64_t bytes,
                               uint64_t limit)
{
    VHDXSpace *sp = s->space;
    bool block = bytes == s->geo.block_size;
    uint64_t offset = vhdx_space_map_take(s, bytes, block ? sp->hint : 0,
                                          MIN(limit, sp->end) / VHDX_MIB);

    vhdx_assert_locked(s);
    if (offset && block) {
        sp->hint = (offset + bytes) / VHDX_MIB;
    }
    if (offset) {
        trace_vhdx_space_take(s, offset, bytes, false);
    }
    return offset;
}

uint64_t vhdx_space_count_used(BDRVVHDXState *s, uint64_t from, uint64_t to)
{
    VHDXSpace *sp = s->space;
    uint64_t end = MIN(to / VHDX_MIB, sp->used_bits);
    uint64_t first = MIN(from / VHDX_MIB, end);

    vhdx_assert_locked(s);
    return bitmap_count_one_with_offset(sp->used, first, end - first) *
           VHDX_MIB;
}

bool vhdx_space_is_free_before(BDRVVHDXState *s, uint64_t offset)
{
    vhdx_assert_unlocked(s);
    VHDX_LOCK_GUARD(s);
    return !vhdx_space_count_used(s, offset - VHDX_MIB, offset);
}

int64_t coroutine_fn vhdx_space_alloc(BlockDriverState *bs, uint64_t bytes,
                                      bool *zero)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t offset;
    int ret;

    vhdx_assert_locked(s);
    /*
     * Take what there is; if that is nothing, and is still so when no other
     * request is making room, make some.  Each turn but the first two has seen
     * room being made, and others have taken it.
     */
    while (!(offset = space_take(s, bytes, zero))) {
        vhdx_unlock(s);
        qemu_co_mutex_lock(&s->grow_lock);
        vhdx_lock(s);
        offset = space_take(s, bytes, zero);
        ret = 0;
        if (!offset) {
            uint64_t end = s->space->end + bytes;

            vhdx_unlock(s);
            ret = space_extend(bs, end);
            vhdx_lock(s);
        }
        qemu_co_mutex_unlock(&s->grow_lock);
        if (offset || ret < 0) {
            return offset ?: ret;
        }
    }
    return offset;
}

int coroutine_fn vhdx_space_zero(BlockDriverState *bs, uint64_t offset,
                                 uint64_t bytes, BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    /* Holes that a failed flush has lost may show yet. */
    bool look = vhdx_file_trusts_zeroes(s);
    int ret = 0;

    vhdx_assert_unlocked(s);
    for (unsigned i = 0; bytes && ret == 0; i++) {
        int64_t n = bytes;
        int status = 0;

        if (look && i < MAX_STRETCHES) {
            status = vhdx_file_extent(bs, offset, bytes, &n);
        }
        if (!(status & BDRV_BLOCK_ZERO)) {
            ret = vhdx_file_pwrite_zeroes(bs, offset, n, flags);
        }
        offset += n;
        bytes -= n;
    }
    return ret;
}
