/*
 * VHDX: finding out what is free
 *
 * The map is made by going through the BAT ("scan"), which finds what earlier
 * opens have left free as well.  That is done before the file grows or space
 * gets free for the first time, after a crash, which may have left space behind
 * the last block, and on a node that cannot grow.
 *
 * Metadata has no checksum, so the disk's size may be wrong, or what a block's
 * entry is told from a sector bitmap's by.  Therefore all of the BAT's region
 * counts, and a place that an entry of a present block seems to name, behind
 * the last one as well, is kept.
 *
 * A block in the state UNMAPPED or UNDEFINED may have kept its place.  The scan
 * finds out which of these places are named by one entry only, and are nothing
 * else's: there the block goes again when it is written to.  Other places that
 * an entry names without using them are left alone.
 *
 * Where the BAT of a damaged image names a place twice, the block that is
 * discarded may not be the last one there.  Then nothing is punched or put into
 * the map as free in this open.  What then looks free may be the other's place,
 * so all that was used before is kept, and new blocks are appended.  Where an
 * entry can't be right its block may be anywhere, also in what a cut-off file
 * had behind its end: then nothing is given out at all.  In either case the
 * file keeps its length.
 *
 * The length of blocks may be what is damaged, too.  Where each block has free
 * space behind it, as much as itself, and data there, and the BAT is all zero
 * from where it would end with blocks twice as long, they may be longer than
 * BlockSize says.  Then all that was used before is kept as well.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space-map.h"
#include "block/vhdx/space-scan.h"
#include "space-int.h"
#include "trace.h"

typedef struct Scan {
    uint64_t size;                  /* of the file */
    unsigned long *used;
    unsigned long *kept;            /* what entries name that don't use it */
    unsigned long *shared;          /* ... of these, what is not one's own */
    uint64_t bits;                  /* in each of these */
    bool overlap;                   /* something was marked twice in @used */
    bool damaged;                   /* an entry can't be right */
    uint64_t lost;                  /* entries behind the last: see VHDXSpace */
} Scan;

/* An object is at @offset. */
static void scan_mark(Scan *scan, uint64_t offset, uint64_t bytes)
{
    uint64_t from = offset / VHDX_MIB;
    uint64_t to = MIN(DIV_ROUND_UP(offset + bytes, VHDX_MIB), scan->bits);

    if (from < to) {
        scan->overlap |= find_next_bit(scan->used, to, from) < to;
        bitmap_set(scan->used, from, to - from);
    }
}

/*
 * An entry names the place at @offset without using it.  It may be its @own,
 * unless another one does the same.
 */
static void scan_keep(Scan *scan, uint64_t offset, uint64_t bytes, bool own)
{
    uint64_t from = offset / VHDX_MIB;
    uint64_t to = MIN(DIV_ROUND_UP(offset + bytes, VHDX_MIB), scan->bits);

    for (uint64_t i = from; i < to; i++) {
        if (test_and_set_bit(i, scan->kept) || !own) {
            set_bit(i, scan->shared);
        }
    }
}

/* Whether an entry of the raw value @entry may keep its place. */
static bool entry_keeps(uint64_t entry)
{
    uint64_t value = vhdx_bat_entry_normalize(entry, false);
    VHDXBlockState state = vhdx_bat_state(value);

    return state == VHDX_BLOCK_UNDEFINED || state == VHDX_BLOCK_UNMAPPED;
}

/*
 * Whatever an entry names may be in use, right or wrong.  Only metadata, which
 * has no checksum, says that an entry stands where a sector bitmap's does: it
 * may be a block's all the same.
 */
static int coroutine_fn GRAPH_RDLOCK
scan_entries(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
             uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t stride = vhdx_bat_stride(&s->geo);
    uint64_t phase = index % stride;
    Scan *scan = opaque;

    for (uint64_t i = 0; i < count; i++, phase++) {
        uint64_t entry = entries[i], offset = vhdx_bat_offset(entry);
        uint64_t end = offset + s->geo.block_size, used;
        bool bitmap = phase == stride - 1;
        bool present;

        if (vhdx_bat_state(entry) == VHDX_BLOCK_PARTIALLY_PRESENT && !bitmap) {
            entry = vhdx_bat_entry_resolve(bs, index + i, entry);
        }
        present = !bitmap && vhdx_bat_is_present(s, entry);
        if (offset && offset < end && present) {
            scan_mark(scan, offset, s->geo.block_size);
        } else if (bitmap && vhdx_bat_bitmap_is_present(s, entry)) {
            scan_mark(scan, offset, VHDX_BITMAP_SIZE);
        } else if (offset && offset < end) {
            scan_keep(scan, offset, s->geo.block_size,
                      !bitmap && entry_keeps(entry));
        }
        if (bitmap) {
            phase = -1;
            if (!s->params.has_parent) {
                continue;
            }
            present = vhdx_bat_bitmap_is_present(s, entry);
            end = offset + VHDX_BITMAP_SIZE;
        }
        /* What is present and in the file can at worst be marked twice. */
        if (entry > (bitmap ? VHDX_BLOCK_NOT_PRESENT : VHDX_BLOCK_UNMAPPED) &&
            !scan->damaged &&
            (!present || !offset || end > scan->size || end < offset)) {
            VHDX_LOCK_GUARD(s);
            scan->damaged = vhdx_bat_entry_use(bs, index + i, entry,
                                               &used) < 0;
        }
    }
    return 0;
}

/* Those behind the last block, when all others have been seen */
static int scan_rest(BlockDriverState *bs, uint64_t index,
                     const uint64_t *entries, uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    Scan *scan = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t offset = vhdx_bat_offset(entries[i]);

        if (vhdx_bat_index_is_behind(&s->geo, index + i) &&
            vhdx_bat_may_be_block(s, entries[i]) &&
            !test_bit(offset / VHDX_MIB, scan->used)) {
            scan_keep(scan, offset, s->geo.block_size, false);
            scan->lost++;
        }
    }
    return 0;
}

/*
 * Go through the BAT.  A child's last chunk has entries behind the last block,
 * and the sector bitmap's behind these.
 */
static int coroutine_fn GRAPH_RDLOCK
scan_bat(BlockDriverState *bs, Scan *scan)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t end = vhdx_bat_payload_end(&s->geo);
    int ret;

    ret = vhdx_bat_walk(bs, 0, end, scan_entries, scan);
    if (ret == 0 && end < s->geo.bat_entries) {
        ret = vhdx_bat_walk(bs, s->geo.bat_entries - 1, s->geo.bat_entries,
                            scan_entries, scan);
    }
    return ret < 0 ? ret :
           vhdx_bat_walk(bs, end, s->bat.length / VHDX_BAT_ENTRY_SIZE,
                         scan_rest, scan);
}

/* What no entry names any more, but is not free yet. */
static void scan_mark_freed(Scan *scan, VHDXSpace *sp)
{
    GArray *lists[] = { sp->freed, sp->committing, sp->committed };

    for (unsigned i = 0; i < ARRAY_SIZE(lists); i++) {
        for (guint j = i == 2 ? sp->taken : 0; j < lists[i]->len; j++) {
            VHDXFreed *f = &g_array_index(lists[i], VHDXFreed, j);

            scan_mark(scan, f->offset, f->length);
        }
    }
}

/*
 * Keep off foreign regions, but not those that blocks have been written over:
 * they are gone.  lock is held: while requests run nobody else has to do with
 * what a region holds, and one scan comes after the other.
 */
static void scan_mark_foreign(Scan *scan, BDRVVHDXState *s)
{
    for (uint32_t i = 0; i < s->region_count; i++) {
        VHDXRegion *r = &s->regions[i];
        uint64_t from = r->offset / VHDX_MIB;
        uint64_t to = MIN(from + r->held / VHDX_MIB, scan->bits);

        if (!vhdx_region_is_foreign(r) || from >= to) {
            continue;
        }
        if (find_next_bit(scan->used, to, from) < to) {
            r->held = 0;
        } else {
            scan_keep(scan, from * VHDX_MIB, (to - from) * VHDX_MIB, false);
        }
    }
}

static bool scan_init(Scan *scan)
{
    scan->used = bitmap_try_new(scan->bits);
    scan->kept = bitmap_try_new(scan->bits);
    scan->shared = bitmap_try_new(scan->bits);
    return scan->used && scan->kept && scan->shared;
}

static void scan_free(Scan *scan)
{
    g_free(scan->used);
    g_free(scan->kept);
    g_free(scan->shared);
}

/*
 * All is marked: what is kept counts as used from now on.  @sp gets to know
 * which of it is one block's own.
 */
static void scan_settle_kept(Scan *scan, VHDXSpace *sp)
{
    g_clear_pointer(&sp->kept, g_free);
    bitmap_or(scan->shared, scan->shared, scan->used, scan->bits);
    bitmap_or(scan->used, scan->used, scan->kept, scan->bits);
    if (bitmap_andnot(scan->kept, scan->kept, scan->shared, scan->bits)) {
        sp->kept = g_steal_pointer(&scan->kept);
        sp->kept_bits = scan->bits;
    }
}

static void scan_mark_objects(Scan *scan, BDRVVHDXState *s)
{
    scan_mark(scan, 0, VHDX_HEADER_SECTION_SIZE);
    scan_mark(scan, s->header.log_offset, s->header.log_length);
    scan_mark(scan, s->bat.offset, s->bat.length);
    scan_mark(scan, s->metadata.offset, s->metadata.length);
}

/* -- Whether blocks are as long as they are said to be -- */

/* So many blocks, and so many with data behind them, are no chance. */
#define DOUBT_BLOCKS    3
#define DOUBT_DATA      2

/* So many bytes of the file are read for that at the most. */
#define DOUBT_BYTES     (8 * MiB)

typedef struct Doubt {
    unsigned long *used;            /* bitmap of MiBs */
    uint64_t bits;
    uint8_t *buf;                   /* a MiB */
    uint64_t budget;                /* bytes that may still be read */
    uint64_t blocks;                /* that are present */
    unsigned data;                  /* ... and have data behind, if looked at */
} Doubt;

static int any_entry(BlockDriverState *bs, uint64_t index,
                     const uint64_t *entries, uint64_t count, void *opaque)
{
    return !buffer_is_zero(entries, count * VHDX_BAT_ENTRY_SIZE);
}

static void doubt_mark(Doubt *d, uint64_t offset, uint64_t bytes)
{
    uint64_t from = MIN(offset / VHDX_MIB, d->bits);
    uint64_t to = MIN((offset + bytes) / VHDX_MIB, d->bits);

    bitmap_set(d->used, from, to - from);
}

/* Whether @entry with index @index names a sector bitmap block. */
static bool doubt_is_bitmap(BDRVVHDXState *s, uint64_t index, uint64_t entry)
{
    uint64_t block;

    return vhdx_bat_bitmap_is_present(s, entry) &&
           vhdx_bat_index_is_bitmap(&s->geo, index, &block);
}

static int doubt_entries(BlockDriverState *bs, uint64_t index,
                         const uint64_t *entries, uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;

    for (uint64_t i = 0; i < count; i++) {
        if (vhdx_bat_may_be_block(s, entries[i])) {
            doubt_mark(opaque, vhdx_bat_offset(entries[i]),
                       doubt_is_bitmap(s, index + i, entries[i]) ?
                       VHDX_BITMAP_SIZE : s->geo.block_size);
        }
    }
    return 0;
}

/*
 * Returns 1 at a block that has something else where a longer one would be, be
 * it the end of the file, as the last one of an image that was closed has it.
 */
static int coroutine_fn GRAPH_RDLOCK
doubt_places(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
             uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    Doubt *d = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t from = vhdx_bat_offset(entries[i]) + s->geo.block_size;
        uint64_t end;
        int ret;

        if (!vhdx_bat_may_be_block(s, entries[i]) ||
            doubt_is_bitmap(s, index + i, entries[i])) {
            continue;
        }
        d->blocks++;
        if (from + s->geo.block_size > vhdx_file_size(s)) {
            return 1;
        }
        end = find_next_bit(d->used, d->bits, from / VHDX_MIB) * VHDX_MIB;
        if (end < d->bits * VHDX_MIB && end < from + s->geo.block_size) {
            return 1;
        }
        if (d->data < DOUBT_DATA) {
            end = MIN(end, from + VHDX_MAX_BLOCK_SIZE);
            ret = vhdx_replay_find_data(bs, &from, end, d->buf, &d->budget);
            if (ret < 0) {
                return ret;
            }
            d->data += ret;
        }
    }
    return 0;
}

/* Go through the blocks, of which there are @geo->bat_entries at the most. */
static int coroutine_fn GRAPH_RDLOCK
doubt_blocks(BlockDriverState *bs, const VHDXGeometry *geo)
{
    BDRVVHDXState *s = bs->opaque;
    Doubt d = {
        .bits = vhdx_file_size(s) / VHDX_MIB,
        .budget = DOUBT_BYTES,
    };
    int ret = -ENOMEM;

    d.used = bitmap_try_new(d.bits);
    d.buf = qemu_try_blockalign(bs->file->bs, VHDX_MIB);
    if (!d.used || !d.buf) {
        goto out;
    }
    doubt_mark(&d, s->header.log_offset, s->header.log_length);
    doubt_mark(&d, s->bat.offset, s->bat.length);
    doubt_mark(&d, s->metadata.offset, s->metadata.length);
    ret = vhdx_bat_walk(bs, 0, geo->bat_entries, doubt_entries, &d);
    if (ret < 0) {
        goto out;
    }
    ret = vhdx_bat_walk(bs, 0, geo->bat_entries, doubt_places, &d);
    ret = ret ? MIN(ret, 0) :
          d.blocks >= DOUBT_BLOCKS && d.data >= DOUBT_DATA;
out:
    g_free(d.used);
    qemu_vfree(d.buf);
    return ret;
}

int coroutine_fn vhdx_space_doubt(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXParams params = s->params;
    VHDXGeometry geo;
    int ret;

    params.block_size *= 2;
    if (params.block_size > VHDX_MAX_BLOCK_SIZE || s->geo.blocks < 2 ||
        vhdx_file_size(s) > VHDX_MAX_MAP_BYTES) {
        return 0;
    }
    vhdx_geometry_init(&geo, &params);
    ret = vhdx_bat_walk(bs, geo.bat_entries, s->geo.bat_entries, any_entry,
                        NULL);
    return ret ? MIN(ret, 0) : doubt_blocks(bs, &geo);
}

/* The map is complete: @sp has it from now on. [tail-old] */
static void scan_use(Scan *scan, VHDXSpace *sp)
{
    g_free(sp->used);
    sp->scanned = true;
    sp->used = g_steal_pointer(&scan->used);
    sp->used_bits = scan->bits;
    sp->hint = 0;
    /* Blocks that are gone may have been anywhere up to the old end. */
    sp->zero_from = MAX(sp->zero_from, sp->end);
    sp->end = (find_last_bit(sp->used, sp->used_bits) + 1) * VHDX_MIB;
}

/*
 * All entries have been seen, and nobody has taken space meanwhile: know what
 * is free.  @allocs are the places that were being given to blocks before: the
 * BAT may have told of them, or not, when it was read.  lock is held.
 */
static void scan_adopt(BDRVVHDXState *s, Scan *scan, GArray *allocs)
{
    VHDXSpace *sp = s->space;

    sp->overlap = scan->overlap;
    sp->lost = scan->lost;
    sp->damaged |= scan->damaged;
    for (guint i = 0; i < allocs->len; i++) {
        scan_mark(scan, g_array_index(allocs, uint64_t, i), s->geo.block_size);
    }
    scan_mark_freed(scan, sp);
    scan_settle_kept(scan, sp);
    if (sp->damaged || sp->overlap) {
        /* What no entry names may be a block whose entry is damaged. */
        bitmap_set(scan->used, 0, MIN(sp->end / VHDX_MIB, scan->bits));
    }
    scan_use(scan, sp);
    vhdx_space_map_unpunch(sp, sp->end, UINT64_MAX);
    trace_vhdx_space_scan(s, sp->end, sp->overlap, sp->damaged);
}

int coroutine_fn vhdx_space_scan(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = s->space;
    uint64_t size = vhdx_file_size(s);
    /* The last block may begin within the file and not end there. */
    Scan scan = {
        .size = size,
        .bits = DIV_ROUND_UP(size + s->geo.block_size, VHDX_MIB),
    };
    g_autoptr(GArray) allocs = g_array_new(false, false, sizeof(uint64_t));
    int ret, doubt = 0;

    vhdx_assert_unlocked(s);
    if (size > VHDX_MAX_MAP_BYTES) {
        return -EOVERFLOW;
    }
    if (!sp->scanned || sp->overlap) {
        /* Later there is data in space that has been freed, or given back. */
        doubt = vhdx_space_doubt(bs);
        if (doubt < 0) {
            return doubt;
        }
    }
    if (!scan_init(&scan)) {
        scan_free(&scan);
        return -ENOMEM;
    }
    scan_mark_objects(&scan, s);
    WITH_VHDX_LOCK_GUARD(s) {
        sp->scanning = true;
        scan_mark_freed(&scan, sp);
        vhdx_request_alloc_offsets(s, allocs);
    }
    ret = scan_bat(bs, &scan);
    WITH_VHDX_LOCK_GUARD(s) {
        sp->scanning = false;
        scan_mark_foreign(&scan, s);
        scan.overlap |= doubt;
        if (ret == 0) {
            scan_adopt(s, &scan, allocs);
        }
    }
    scan_free(&scan);
    return ret;
}

int coroutine_fn GRAPH_RDLOCK vhdx_space_know(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = s->space;
    int ret = 0;

    vhdx_assert_grow_locked(s);
    if (!sp->scanned) {
        ret = vhdx_space_scan(bs);
    }
    VHDX_LOCK_GUARD(s);
    return sp->damaged ? -EIO : ret;
}

int coroutine_fn vhdx_space_learn(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    qemu_co_mutex_lock(&s->grow_lock);
    ret = vhdx_space_know(bs);
    qemu_co_mutex_unlock(&s->grow_lock);
    return ret;
}
