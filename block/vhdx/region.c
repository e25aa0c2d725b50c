/*
 * VHDX: moving regions
 *
 * The BAT moves when the disk gets longer than it has entries for.  Compacting
 * lets regions go down into free space, and the BAT get shorter.
 *
 * A copy is made in free space and made stable, then one log entry changes both
 * region tables, and the old place is released.  So a power cut leaves the
 * region in one place or the other.  All that the log holds is put in place
 * before the copy: otherwise a replay could still write to where the region has
 * been, which may be a block's by then.
 *
 * Requests are frozen throughout, as they use the places of regions without
 * looking at them again.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/cache-write.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/region.h"
#include "block/vhdx/ring.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "trace.h"

#define COPY_BYTES  MiB

/* Commit what has been changed, if anything.  commit_lock is held. */
static int coroutine_fn GRAPH_RDLOCK changes_commit(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    bool done;

    WITH_VHDX_LOCK_GUARD(s) {
        done = vhdx_change_is_stable(s, vhdx_change_last(s));
    }
    return done ? 0 : vhdx_change_is_broken(s) ? -EIO : vhdx_commit_locked(bs);
}

/* vhdx_commit(), or changes_commit() where commit_lock is held */
typedef int coroutine_fn CommitFunc(BlockDriverState *bs);

/* As vhdx_region_replace_bytes(), by @commit [entries-first] */
static int coroutine_fn GRAPH_RDLOCK
bytes_replace(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
              const void *buf, const void *old, CommitFunc *commit)
{
    int ret;

    /* Alone, so that it is one log entry, and after all that it counts on. */
    ret = commit(bs);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_cache_write(bs, offset, bytes, buf);
    if (ret < 0) {
        return ret;
    }
    ret = commit(bs);
    if (ret < 0) {
        /* The pages are dirty, thus in memory: nothing is read. */
        (void)vhdx_cache_write(bs, offset, bytes, old);
    }
    return ret;
}

int coroutine_fn
vhdx_region_replace_bytes(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                          const void *buf, const void *old)
{
    return bytes_replace(bs, offset, bytes, buf, old, vhdx_commit);
}

/* -- One region -- */

/* Where a region goes */
typedef struct Place {
    uint64_t offset;                /* bytes */
    uint32_t length;                /* bytes */
    bool zero;                      /* it reads as zeros */
    uint32_t keep;                  /* bytes that go along, from its start */
    VHDXRegionFill *fill;           /* or NULL */
    void *opaque;
} Place;

/* Copy @bytes bytes of the file from @from to @to, where there are zeros. */
static int coroutine_fn GRAPH_RDLOCK
copy_range(BlockDriverState *bs, uint64_t from, uint64_t to, uint64_t bytes)
{
    uint8_t *buf = qemu_try_blockalign(bs->file->bs, COPY_BYTES);
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    for (uint64_t at = 0; at < bytes; at += COPY_BYTES) {
        uint64_t n = MIN(bytes - at, COPY_BYTES);

        ret = vhdx_file_pread(bs, from + at, n, buf);
        if (ret < 0) {
            break;
        }
        if (buffer_is_zero(buf, n)) {
            continue;
        }
        ret = vhdx_file_pwrite(bs, to + at, n, buf);
        if (ret < 0) {
            break;
        }
    }
    qemu_vfree(buf);
    return ret;
}

/* Change both region tables from @old regions to @new ones. */
static int coroutine_fn GRAPH_RDLOCK
region_tables_commit(BlockDriverState *bs, const VHDXRegion *old,
                     const VHDXRegion *new)
{
    BDRVVHDXState *s = bs->opaque;
    const size_t bytes = VHDX_REGION_TABLE_SIZE;
    g_autofree uint8_t *buf = g_malloc(4 * bytes);

    /* The two copies lie next to each other in the file. */
    QEMU_BUILD_BUG_ON(VHDX_REGION_TABLE_OFFSET(1) !=
                      VHDX_REGION_TABLE_OFFSET(0) + VHDX_REGION_TABLE_SIZE);
    for (int i = 0; i < 2; i++) {
        vhdx_region_table_encode(new, s->region_count, buf + i * bytes);
        vhdx_region_table_encode(old, s->region_count, buf + (2 + i) * bytes);
    }
    return bytes_replace(bs, VHDX_REGION_TABLE_OFFSET(0), 2 * bytes, buf,
                         buf + 2 * bytes, changes_commit);
}

/*
 * Make stable what has been written, and then region tables that give @region
 * @length bytes at @offset.  What it no longer has is released.  Returns 0, or
 * -errno with @region as it was.  commit_lock is held. [move-barrier]
 * [freed-wait]
 */
static int coroutine_fn GRAPH_RDLOCK
region_enter(BlockDriverState *bs, VHDXRegion *region, uint64_t offset,
             uint32_t length)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXRegion old = *region;
    uint64_t keep = offset == old.offset ? length : 0;
    size_t index = region - s->regions;
    g_autofree VHDXRegion *regions = g_memdup2(s->regions, s->region_count *
                                               sizeof(*regions));
    int ret;

    regions[index].offset = offset;
    regions[index].length = regions[index].held = length;
    ret = vhdx_ring_flush(bs);
    if (ret < 0) {
        return ret;
    }
    ret = region_tables_commit(bs, s->regions, regions);
    if (ret < 0) {
        return ret;
    }

    VHDX_LOCK_GUARD(s);
    *region = regions[index];
    if (vhdx_guid_equal(&region->guid, &vhdx_region_bat)) {
        s->bat = *region;
    } else if (vhdx_guid_equal(&region->guid, &vhdx_region_metadata)) {
        s->metadata = *region;
    }
    vhdx_bat_note_objects(s);
    vhdx_cache_drop(s, old.offset + keep, old.length - keep);
    vhdx_space_release(s, old.offset + keep, old.length - keep);
    vhdx_change_note(s);
    return 0;
}

/*
 * Let the place @to have what @region has.  commit_lock is held, and until it
 * is entered: a parent that changes, or an image itself that begins to, writes
 * a locator with requests frozen, too. [move-applied] [move-replay]
 * [place-zeroed]
 */
static int coroutine_fn GRAPH_RDLOCK
region_copy(BlockDriverState *bs, const VHDXRegion *region, const Place *to)
{
    /* Then all of the region is in place: no replay writes there again. */
    int ret = vhdx_commit_checkpoint_locked(bs);

    if (ret == 0 && !to->zero) {
        ret = vhdx_file_pwrite_zeroes(bs, to->offset, to->length,
                                      BDRV_REQ_MAY_UNMAP);
    }
    ret = ret ?: copy_range(bs, region->offset, to->offset, to->keep);
    if (ret == 0 && to->fill) {
        ret = to->fill(bs, to->offset, to->opaque);
    }
    return ret;
}

/*
 * Move @region, one of @s->regions, to the place @to, which is taken for it;
 * the old place is released.  What the new length adds reads as zeros, but for
 * what @to->fill writes there.  If that fails nothing has changed, and the new
 * place has been given back.
 */
static int coroutine_fn GRAPH_RDLOCK
region_move(BlockDriverState *bs, VHDXRegion *region, const Place *to)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t offset = to->offset;
    uint32_t length = to->length;
    int ret;

    assert(offset != region->offset);
    ret = vhdx_begin(bs, VHDX_METADATA);
    if (ret < 0) {
        VHDX_LOCK_GUARD(s);
        vhdx_space_return(s, offset, length, false);
        return ret;
    }
    trace_vhdx_region_move(s, region->offset, offset, length);
    qemu_co_mutex_lock(&s->commit_lock);
    ret = region_copy(bs, region, to) ?:
          region_enter(bs, region, offset, length);
    qemu_co_mutex_unlock(&s->commit_lock);
    if (ret < 0) {
        VHDX_LOCK_GUARD(s);
        /* It is free when the old tables are there again and stable. */
        vhdx_space_release(s, offset, length);
    }
    return ret;
}

/* Let @region stay where it is, but have only @length bytes. [move-replay] */
static int coroutine_fn GRAPH_RDLOCK
region_shorten(BlockDriverState *bs, VHDXRegion *region, uint32_t length)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_begin(bs, VHDX_METADATA);

    if (ret < 0) {
        return ret;
    }
    trace_vhdx_region_move(s, region->offset, region->offset, length);
    qemu_co_mutex_lock(&s->commit_lock);
    /* No replay may write to what the region loses. */
    ret = vhdx_commit_checkpoint_locked(bs) ?:
          region_enter(bs, region, region->offset, length);
    qemu_co_mutex_unlock(&s->commit_lock);
    return ret;
}

/* The region @guid, which there is. */
static VHDXRegion *region_find(BDRVVHDXState *s, const VHDXGuid *guid)
{
    VHDXRegion *region = s->regions;

    while (!vhdx_guid_equal(&region->guid, guid)) {
        region++;
    }
    return region;
}

/* Take a place with @to->length bytes, at the end if need be. */
static int coroutine_fn GRAPH_RDLOCK place_take(BlockDriverState *bs, Place *to)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t offset;

    WITH_VHDX_LOCK_GUARD(s) {
        offset = vhdx_space_alloc(bs, to->length, &to->zero);
    }
    to->offset = offset;
    return MIN(offset, 0);
}

/* -- The BAT's length -- */

static VHDXRegion *bat_region(BDRVVHDXState *s)
{
    return region_find(s, &vhdx_region_bat);
}

int coroutine_fn vhdx_region_fit_bat(BlockDriverState *bs,
                                     const VHDXGeometry *geo)
{
    BDRVVHDXState *s = bs->opaque;
    Place to = {
        .length = vhdx_bat_region_length(geo),
        .keep = s->bat.length,
    };
    int ret;

    if (to.length <= s->bat.length) {
        return 0;
    }
    ret = place_take(bs, &to);
    return ret < 0 ? ret : region_move(bs, bat_region(s), &to);
}

int coroutine_fn vhdx_region_shorten_bat(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint32_t length = vhdx_bat_region_length(&s->geo);
    VHDXRegion *bat = bat_region(s);
    int ret;

    if (bat->length <= length) {
        return 0;
    }
    ret = region_shorten(bs, bat, length);
    return ret < 0 ? ret : vhdx_commit(bs);
}

/* -- The metadata region's length -- */

int coroutine_fn vhdx_region_move_metadata(BlockDriverState *bs,
                                           uint32_t length, uint32_t keep,
                                           VHDXRegionFill *fill, void *opaque)
{
    Place to = {
        .length = length,
        .keep = keep,
        .fill = fill,
        .opaque = opaque,
    };
    int ret = place_take(bs, &to);

    return ret < 0 ? ret :
           region_move(bs, region_find(bs->opaque, &vhdx_region_metadata), &to);
}

int coroutine_fn vhdx_region_shorten_metadata(BlockDriverState *bs,
                                              uint32_t length)
{
    return region_shorten(bs, region_find(bs->opaque, &vhdx_region_metadata),
                          length);
}

/* -- Compacting -- */

/* Move @region as it is, and commit that. */
static int coroutine_fn GRAPH_RDLOCK
move_commit(BlockDriverState *bs, VHDXRegion *region, Place *to)
{
    int ret;

    to->length = to->keep = region->length;
    ret = region_move(bs, region, to);
    return ret < 0 ? ret : vhdx_commit(bs);
}

/* The first free place before that of @region, taken for it, or 0. */
static uint64_t place_before(BDRVVHDXState *s, const VHDXRegion *region)
{
    VHDX_LOCK_GUARD(s);
    return vhdx_space_take_below(s, region->length, region->offset);
}

/*
 * Move @region down.  If it would overlap itself there it has to go up first,
 * which is done only if it ends behind @far.  Without a gap before it it would
 * come back to where it is.
 */
static int coroutine_fn GRAPH_RDLOCK
lower_region(BlockDriverState *bs, VHDXRegion *region, uint64_t far)
{
    BDRVVHDXState *s = bs->opaque;
    Place to = { .offset = place_before(s, region) };
    Place up = { .length = region->length };
    int ret;

    if (to.offset) {
        return move_commit(bs, region, &to);
    }
    if (region->offset + region->length <= far ||
        !vhdx_space_is_free_before(s, region->offset)) {
        return 0;
    }
    ret = vhdx_begin(bs, VHDX_METADATA);
    if (ret < 0) {
        return ret;
    }
    ret = place_take(bs, &up);
    if (ret < 0) {
        return ret;
    }
    ret = move_commit(bs, region, &up);
    if (ret < 0) {
        return ret;
    }
    to.offset = place_before(s, region);
    return to.offset ? move_commit(bs, region, &to) : 0;
}

int coroutine_fn
vhdx_region_lower_all(BlockDriverState *bs, uint64_t limit, uint64_t far)
{
    BDRVVHDXState *s = bs->opaque;

    for (uint32_t i = 0; i < s->region_count; i++) {
        VHDXRegion *region = &s->regions[i];
        int ret;

        if (!vhdx_region_is_known(region) ||
            region->offset + region->length <= limit) {
            continue;
        }
        ret = lower_region(bs, region, far);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}
