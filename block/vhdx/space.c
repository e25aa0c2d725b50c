/*
 * VHDX: which parts of the file are free
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
 * In a fixed image (LeaveBlockAllocated) nothing is given back unasked: no cut
 * gets below the length that the file had when it was opened.
 *
 * Space below the end becomes free when a block is discarded.  Until the BAT
 * change is stable the block must stay as it is, as a power cut would bring it
 * back, and even then a request that began before may still read or write it.
 * So space goes from the list of the freed, through the list of the committed,
 * to the map of used MiBs, from which it is given out again before the file
 * grows.  What is not known to be free counts as used.  What has come into the
 * map like this is punched later, if nobody has taken it before: a few places
 * at a time, which are out of the map meanwhile, so that no request waits for
 * all of them.
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
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"

/*
 * The file grows by an eighth of its length, within these bounds, and by eight
 * blocks at least.  Until data is written there this takes no space of the
 * host.
 */
#define GROW_MIN        (16 * MiB)
#define GROW_MAX        GiB
#define GROW_BLOCKS     8

/* Places that go into the map under one lock */
#define RECLAIM_PLACES  1024

/* The longest place that is punched at once, and such at one hold of a lock */
#define PUNCH_BYTES     GiB
#define PUNCH_SLICE     16

/* A place with more stretches of data and holes is zeroed as a whole. */
#define MAX_STRETCHES   64

/*
 * No map is kept of files longer than this: twice the largest disk.  It takes
 * 16 MiB, and twice as much while it is made larger.
 */
#define MAX_MAP_BYTES   (128 * (uint64_t)TiB)

void vhdx_space_init(BDRVVHDXState *s, uint64_t size)
{
    s->space = (VHDXSpace) {
        .end = ROUND_UP(size, VHDX_MIB),
        .size = size,
        .keep = size,
        .zero_from = UINT64_MAX,
        .tail = UINT64_MAX,
        .punch_from = UINT64_MAX,
        .freed = g_array_new(false, false, sizeof(VHDXFreed)),
        .committing = g_array_new(false, false, sizeof(VHDXFreed)),
        .committed = g_array_new(false, false, sizeof(VHDXFreed)),
    };
}

void vhdx_space_free(BDRVVHDXState *s)
{
    g_clear_pointer(&s->space.freed, g_array_unref);
    g_clear_pointer(&s->space.committing, g_array_unref);
    g_clear_pointer(&s->space.committed, g_array_unref);
    g_clear_pointer(&s->space.used, g_free);
    g_clear_pointer(&s->space.kept, g_free);
    g_clear_pointer(&s->space.punch, g_free);
}

/* Let all up to @end bytes be used, if the last object ends before. */
static void space_reach(VHDXSpace *sp, uint64_t end)
{
    uint64_t from = sp->end / VHDX_MIB;
    uint64_t bits = end / VHDX_MIB;

    if (end <= sp->end) {
        return;
    }
    sp->end = end;
    if (sp->used && bits > sp->used_bits) {
        uint64_t new_bits = MAX(bits, 2 * sp->used_bits);

        sp->used = bitmap_zero_extend(sp->used, sp->used_bits, new_bits);
        sp->used_bits = new_bits;
    }
    if (sp->used) {
        bitmap_set(sp->used, from, bits - from);
    }
}

/* Mark @bytes bytes at @offset as free, in a new map if there is none yet. */
static void map_free(BDRVVHDXState *s, uint64_t offset, uint64_t bytes)
{
    VHDXSpace *sp = &s->space;
    uint64_t bits = sp->end / VHDX_MIB;
    /* A block may fit in now that begins in a gap before, not a longer one. */
    uint64_t first = offset - MIN(offset, s->geo.block_size);

    if (!sp->used) {
        if (sp->end <= MAX_MAP_BYTES) {
            sp->used = bitmap_try_new(bits);
        }
        if (!sp->used) {
            return;
        }
        bitmap_set(sp->used, 0, bits);
        sp->used_bits = bits;
    }
    bitmap_clear(sp->used, offset / VHDX_MIB, bytes / VHDX_MIB);
    sp->hint = MIN(sp->hint, first / VHDX_MIB);
}

/* The host is to have @bytes bytes at @offset back, which the map has free. */
static void punch_add(VHDXSpace *sp, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset / VHDX_MIB;
    uint64_t end = first + bytes / VHDX_MIB;

    if (end > sp->punch_bits) {
        unsigned long *punch = bitmap_try_new(sp->used_bits);

        if (!punch) {
            return;
        }
        if (sp->punch) {
            bitmap_copy(punch, sp->punch, sp->punch_bits);
            g_free(sp->punch);
        }
        sp->punch = punch;
        sp->punch_bits = sp->used_bits;
    }
    bitmap_set(sp->punch, first, end - first);
    sp->punch_from = MIN(sp->punch_from, first);
}

/* It stays as it is between @offset and @end, bytes. */
static void punch_forget(VHDXSpace *sp, uint64_t offset, uint64_t end)
{
    uint64_t first = offset / VHDX_MIB;
    uint64_t last = MIN(end / VHDX_MIB, sp->punch_bits);

    if (first < last) {
        bitmap_clear(sp->punch, first, last - first);
    }
}

/*
 * Take the first free place of @bytes bytes by the map that begins at MiB @from
 * or behind it and ends before MiB @limit, and in the file, which may have no
 * more of its last block than what the disk needs.  Returns its offset, or 0.
 */
static uint64_t map_take(VHDXSpace *sp, uint64_t bytes, uint64_t from,
                         uint64_t limit)
{
    uint64_t n = bytes / VHDX_MIB;
    uint64_t at;

    if (!sp->used || sp->scanning) {
        return 0;
    }
    limit = MIN(limit, sp->size / VHDX_MIB);
    at = bitmap_find_next_zero_area(sp->used, limit, from, n, 0);
    if (at + n > limit) {
        return 0;
    }
    bitmap_set(sp->used, at, n);
    at *= VHDX_MIB;
    punch_forget(sp, at, at + bytes);
    sp->tail = MAX(sp->tail, at + bytes);
    return at;
}

/* Where the last object ends by the map, bytes. */
static uint64_t map_end(VHDXSpace *sp)
{
    return (find_last_bit(sp->used, sp->end / VHDX_MIB) + 1) * VHDX_MIB;
}

/* -- Making the map from the BAT -- */

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
    uint64_t stride = (1ULL << s->geo.chunk_bits) + 1;
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
        present = !bitmap && vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT;
        if (offset && offset < end && present) {
            scan_mark(scan, offset, s->geo.block_size);
        } else if (offset && offset < end) {
            scan_keep(scan, offset, s->geo.block_size,
                      !bitmap && entry_keeps(entry));
        }
        if (bitmap) {
            phase = -1;
            continue;
        }
        /* What is present and in the file can at worst be marked twice. */
        if (entry > VHDX_BLOCK_UNMAPPED && !scan->damaged &&
            (!present || !offset || end > scan->size || end < offset)) {
            QEMU_LOCK_GUARD(&s->lock);
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

        if (vhdx_bat_may_be_block(s, entries[i]) &&
            !test_bit(offset / VHDX_MIB, scan->used)) {
            scan_keep(scan, offset, s->geo.block_size, false);
            scan->lost++;
        }
    }
    return 0;
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

/* What is read of the file for that at the most */
#define DOUBT_BYTES     (8 * MiB)

typedef struct Doubt {
    unsigned long *used;            /* bitmap of MiBs */
    uint64_t bits;
    uint8_t *buf;                   /* a MiB */
    uint64_t bytes;                 /* read by now */
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

static int doubt_entries(BlockDriverState *bs, uint64_t index,
                         const uint64_t *entries, uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;

    for (uint64_t i = 0; i < count; i++) {
        if (vhdx_bat_may_be_block(s, entries[i])) {
            doubt_mark(opaque, vhdx_bat_offset(entries[i]), s->geo.block_size);
        }
    }
    return 0;
}

/* Whether there is data in the file, which is read as far as it has to be. */
static int coroutine_fn GRAPH_RDLOCK
doubt_data(BlockDriverState *bs, Doubt *d, uint64_t offset, uint64_t end)
{
    for (int64_t n = 0; offset < end; offset += n) {
        int ret = bdrv_co_block_status(bs->file->bs, offset, end - offset, &n,
                                       NULL, NULL);

        if (ret >= 0 && (ret & BDRV_BLOCK_ZERO) && n) {
            continue;
        }
        n = MIN(end - offset, VHDX_MIB);
        d->bytes += n;
        if (d->bytes > DOUBT_BYTES) {
            return 0;
        }
        ret = bdrv_co_pread(bs->file, offset, n, d->buf, 0);
        if (ret < 0 || !buffer_is_zero(d->buf, n)) {
            return ret < 0 ? ret : 1;
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

        if (!vhdx_bat_may_be_block(s, entries[i])) {
            continue;
        }
        d->blocks++;
        if (from + s->geo.block_size > s->space.size) {
            return 1;
        }
        end = find_next_bit(d->used, d->bits, from / VHDX_MIB) * VHDX_MIB;
        if (end < d->bits * VHDX_MIB && end < from + s->geo.block_size) {
            return 1;
        }
        if (d->data < DOUBT_DATA) {
            ret = doubt_data(bs, d, from, MIN(end, from + VHDX_MAX_BLOCK_SIZE));
            if (ret < 0) {
                return ret;
            }
            d->data += ret;
        }
    }
    return 0;
}

int coroutine_fn vhdx_space_doubt(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXParams params = s->params;
    Doubt d = { .bits = s->space.size / VHDX_MIB };
    VHDXGeometry geo;
    int ret;

    params.block_size *= 2;
    if (params.block_size > VHDX_MAX_BLOCK_SIZE || s->geo.blocks < 2 ||
        s->space.size > MAX_MAP_BYTES) {
        return 0;
    }
    vhdx_geometry_init(&geo, &params);
    ret = vhdx_bat_walk(bs, geo.bat_entries, s->geo.bat_entries, any_entry,
                        NULL);
    if (ret != 0) {
        return MIN(ret, 0);
    }
    d.used = bitmap_try_new(d.bits);
    d.buf = qemu_try_blockalign(bs->file->bs, VHDX_MIB);
    ret = d.used && d.buf ? 0 : -ENOMEM;
    if (ret == 0) {
        doubt_mark(&d, s->header.log_offset, s->header.log_length);
        doubt_mark(&d, s->bat.offset, s->bat.length);
        doubt_mark(&d, s->metadata.offset, s->metadata.length);
        ret = vhdx_bat_walk(bs, 0, geo.bat_entries, doubt_entries, &d);
    }
    if (ret == 0) {
        ret = vhdx_bat_walk(bs, 0, geo.bat_entries, doubt_places, &d);
    }
    g_free(d.used);
    qemu_vfree(d.buf);
    if (ret != 0) {
        return MIN(ret, 0);
    }
    return d.blocks >= DOUBT_BLOCKS && d.data >= DOUBT_DATA;
}

/* The map is complete: @sp has it from now on. */
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

int coroutine_fn vhdx_space_scan(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = &s->space;
    /* The last block may begin within the file and not end there. */
    Scan scan = {
        .size = sp->size,
        .bits = DIV_ROUND_UP(sp->size + s->geo.block_size, VHDX_MIB),
    };
    g_autoptr(GArray) allocs = g_array_new(false, false, sizeof(uint64_t));
    GHashTableIter iter;
    VHDXAlloc *alloc;
    int ret, doubt;

    if (sp->size > MAX_MAP_BYTES) {
        return -EOVERFLOW;
    }
    doubt = vhdx_space_doubt(bs);
    if (doubt < 0) {
        return doubt;
    }
    if (!scan_init(&scan)) {
        scan_free(&scan);
        return -ENOMEM;
    }
    scan_mark_objects(&scan, s);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        sp->scanning = true;
        scan_mark_freed(&scan, sp);
        g_hash_table_iter_init(&iter, s->allocs);
        while (g_hash_table_iter_next(&iter, NULL, (void **)&alloc)) {
            g_array_append_val(allocs, alloc->offset);
        }
    }
    ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, scan_entries, &scan);
    if (ret == 0) {
        ret = vhdx_bat_walk(bs, s->geo.bat_entries,
                            s->bat.length / VHDX_BAT_ENTRY_SIZE, scan_rest,
                            &scan);
    }

    QEMU_LOCK_GUARD(&s->lock);
    sp->scanning = false;
    scan_mark_foreign(&scan, s);
    if (ret < 0) {
        scan_free(&scan);
        return ret;
    }
    sp->overlap = scan.overlap || doubt;
    sp->lost = scan.lost;
    sp->damaged |= scan.damaged;
    /* Of these the BAT may have told, or not, when it was read. */
    for (guint i = 0; i < allocs->len; i++) {
        scan_mark(&scan, g_array_index(allocs, uint64_t, i),
                  s->geo.block_size);
    }
    scan_mark_freed(&scan, sp);
    scan_settle_kept(&scan, sp);
    if (sp->damaged || sp->overlap) {
        /* What no entry names may be a block whose entry is damaged. */
        bitmap_set(scan.used, 0, MIN(sp->end / VHDX_MIB, scan.bits));
    }
    scan_use(&scan, sp);
    scan_free(&scan);
    punch_forget(sp, sp->end, UINT64_MAX);
    return 0;
}

/*
 * Know what is free, from one scan: a second one would not know of a place
 * that is given out and not yet named.  Returns 0 or -errno, which is -EIO
 * where what is free can't be known for damage; so it is until the image is
 * opened again, as an entry that is mended may come back with a power cut.
 * grow_lock is held.
 */
static int coroutine_fn GRAPH_RDLOCK space_know(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = &s->space;
    int ret = 0;

    if (!sp->scanned) {
        ret = vhdx_space_scan(bs);
    }
    QEMU_LOCK_GUARD(&s->lock);
    return sp->damaged ? -EIO : ret;
}

/* -- Giving space out and taking it back -- */

/* By how much a file of @size bytes grows. */
static uint64_t grow_step(BDRVVHDXState *s, uint64_t size)
{
    uint64_t step = MAX(MIN(MAX(size / 8, GROW_MIN), GROW_MAX),
                        GROW_BLOCKS * (uint64_t)s->geo.block_size);

    return QEMU_ALIGN_UP(step, VHDX_MIB);
}

int coroutine_fn vhdx_space_measure(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = &s->space;
    int64_t size = vhdx_file_length(bs);

    if (size < 0) {
        return size;
    }
    QEMU_LOCK_GUARD(&s->lock);
    if (size > sp->size && sp->zero_from != UINT64_MAX) {
        sp->zero_from = MAX(sp->zero_from, size);
    }
    sp->size = size;
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

    /* To ask for less than the file has would cut it. */
    ret = vhdx_space_measure(bs);
    if (ret < 0 || size <= s->space.size) {
        return ret;
    }
    if (qatomic_read(&s->broken)) {
        /* The file may not have been cut, and have old bytes there. */
        return -EIO;
    }
    old = s->space.size;
    ret = bdrv_co_truncate(bs->file, size, false, prealloc,
                           BDRV_REQ_ZERO_WRITE, NULL);
    if (ret == -ENOTSUP) {
        zero = false;
        ret = bdrv_co_truncate(bs->file, size, false, prealloc, 0, NULL);
    }
    if (ret < 0) {
        /* It may have taken effect all the same. */
        (void)vhdx_space_measure(bs);
        return ret;
    }
    QEMU_LOCK_GUARD(&s->lock);
    s->space.size = size;
    s->space.fixed_size = false;
    if (!zero) {
        s->space.zero_from = UINT64_MAX;
    } else if (s->space.zero_from == UINT64_MAX) {
        s->space.zero_from = old;
    }
    return 0;
}

/*
 * The result @ret of making the file longer: where the node can't grow, that is
 * lack of space.
 */
static int space_grown(BDRVVHDXState *s, int ret)
{
    if (vhdx_length_refused(ret)) {
        QEMU_LOCK_GUARD(&s->lock);
        s->space.fixed_size = true;
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
    bool known = s->space.scanned;
    int ret = space_know(bs);

    if (ret == 0 && !known) {
        /* There may be a place now. */
        return 0;
    }
    if (ret < 0 && ret != -EOVERFLOW) {
        return ret;
    }
    ret = file_grow(bs, end + grow_step(s, s->space.size), PREALLOC_MODE_OFF);
    if (ret < 0) {
        ret = file_grow(bs, end, PREALLOC_MODE_OFF);
    }
    return space_grown(s, ret);
}

/*
 * Take a place of @bytes bytes that is known to be free, below the end or at
 * it.  lock is held.  Returns 0 if there is none now, or -EIO where there will
 * be none in this open, however long the file gets.
 */
static int64_t space_take(BDRVVHDXState *s, uint64_t bytes, bool *zero)
{
    VHDXSpace *sp = &s->space;
    bool block = bytes == s->geo.block_size;
    uint64_t offset;

    if (sp->damaged) {
        return -EIO;
    }
    if (sp->scanning) {
        return 0;
    }
    offset = map_take(sp, bytes, block ? sp->hint : 0, sp->end / VHDX_MIB);
    if (block) {
        sp->hint = (offset ? offset + bytes : sp->end) / VHDX_MIB;
    }
    if (!offset) {
        offset = sp->end;
        if (offset + bytes > sp->size) {
            return 0;
        }
        space_reach(sp, offset + bytes);
        sp->tail = MAX(sp->tail, sp->end);
    }
    *zero = offset >= sp->zero_from && !s->no_zeroes;
    return offset;
}

void coroutine_fn vhdx_space_begin(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry;
    int ret;

    QEMU_LOCK_GUARD(&s->lock);
    if (!s->geo.blocks) {
        return;
    }
    ret = vhdx_bat_get(bs, s->geo.blocks - 1, &entry);
    if (ret < 0) {
        /* It may lie at the end of the file. */
        space_reach(&s->space, s->space.end + s->geo.block_size);
    } else if (vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT) {
        space_reach(&s->space, vhdx_bat_offset(entry) + s->geo.block_size);
    }
}

int coroutine_fn vhdx_space_cover(BlockDriverState *bs, uint64_t end)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    qemu_co_mutex_lock(&s->grow_lock);
    if (end > s->space.size) {
        ret = space_know(bs);
        if (ret == 0 || ret == -EOVERFLOW) {
            ret = space_grown(s, file_grow(bs, end, PREALLOC_MODE_OFF));
        }
    }
    qemu_co_mutex_unlock(&s->grow_lock);
    return ret;
}

int coroutine_fn vhdx_space_reserve(BlockDriverState *bs, uint64_t bytes,
                                    PreallocMode prealloc)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = &s->space;
    int ret;

    qemu_co_mutex_lock(&s->grow_lock);
    ret = space_know(bs);
    if (ret == 0 && sp->end + bytes > sp->size) {
        ret = file_grow(bs, sp->end + bytes, prealloc);
        if (vhdx_length_refused(ret) && prealloc == PREALLOC_MODE_OFF) {
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
    VHDXSpace *sp = &s->space;
    uint64_t first = offset / VHDX_MIB;
    uint64_t end = first + s->geo.block_size / VHDX_MIB;
    int ret = 0;

    if (!offset || !vhdx_bat_in_file(s, block, offset)) {
        return 0;
    }
    if (!sp->scanned) {
        qemu_mutex_unlock(&s->lock);
        qemu_co_mutex_lock(&s->grow_lock);
        ret = space_know(bs);
        qemu_co_mutex_unlock(&s->grow_lock);
        qemu_mutex_lock(&s->lock);
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
    VHDXSpace *sp = &s->space;

    if (sp->kept) {
        bitmap_set(sp->kept, offset / VHDX_MIB, s->geo.block_size / VHDX_MIB);
    }
}

uint64_t vhdx_space_take_below(BDRVVHDXState *s, uint64_t bytes,
                               uint64_t limit)
{
    VHDXSpace *sp = &s->space;
    bool block = bytes == s->geo.block_size;
    uint64_t offset = map_take(sp, bytes, block ? sp->hint : 0,
                               MIN(limit, sp->end) / VHDX_MIB);

    if (offset && block) {
        sp->hint = (offset + bytes) / VHDX_MIB;
    }
    return offset;
}

uint64_t vhdx_space_used(BDRVVHDXState *s, uint64_t from, uint64_t to)
{
    VHDXSpace *sp = &s->space;
    uint64_t end = MIN(to / VHDX_MIB, sp->used_bits);
    uint64_t first = MIN(from / VHDX_MIB, end);

    return bitmap_count_one_with_offset(sp->used, first, end - first) *
           VHDX_MIB;
}

int64_t coroutine_fn vhdx_space_alloc(BlockDriverState *bs, uint64_t bytes,
                                      bool *zero)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t offset;
    int ret;

    /*
     * Take what there is; if that is nothing, and is still so when no other
     * request is making room, make some.  Each turn but the first two has seen
     * room being made, and others have taken it.
     */
    while (!(offset = space_take(s, bytes, zero))) {
        qemu_mutex_unlock(&s->lock);
        qemu_co_mutex_lock(&s->grow_lock);
        qemu_mutex_lock(&s->lock);
        offset = space_take(s, bytes, zero);
        ret = 0;
        if (!offset) {
            uint64_t end = s->space.end + bytes;

            qemu_mutex_unlock(&s->lock);
            ret = space_extend(bs, end);
            qemu_mutex_lock(&s->lock);
        }
        qemu_co_mutex_unlock(&s->grow_lock);
        if (offset || ret < 0) {
            return offset ?: ret;
        }
    }
    return offset;
}

/* Add a place to @list, from which all requests of now are still kept away. */
static void freed_add(BDRVVHDXState *s, GArray *list, uint64_t offset,
                      uint64_t bytes)
{
    VHDXFreed freed = {
        .offset = offset,
        .length = bytes,
        .ticket = s->next_ticket,
    };

    if (list->len) {
        VHDXFreed *last = &g_array_index(list, VHDXFreed, list->len - 1);

        if (last->offset + last->length == offset) {
            last->length += bytes;
            last->ticket = freed.ticket;
            return;
        }
    }
    g_array_append_val(list, freed);
}

void vhdx_space_abandon(BDRVVHDXState *s, uint64_t offset, uint64_t bytes,
                        bool touched)
{
    VHDXSpace *sp = &s->space;

    if (touched) {
        /* The host may have given space to it, and get that back. */
        freed_add(s, sp->committed, offset, bytes);
    } else if (offset + bytes == sp->end && !sp->used) {
        sp->end = offset;
    } else {
        map_free(s, offset, bytes);
    }
}

void vhdx_space_release(BDRVVHDXState *s, uint64_t offset, uint64_t bytes)
{
    freed_add(s, s->space.freed, offset, bytes);
    /* There is something to commit. */
    s->write_gen++;
}

/* Move all of @from to @to. */
static void freed_move(GArray *from, GArray *to)
{
    g_array_append_vals(to, from->data, from->len);
    g_array_set_size(from, 0);
}

void vhdx_space_commit_begin(BDRVVHDXState *s)
{
    freed_move(s->space.freed, s->space.committing);
}

void vhdx_space_commit_end(BDRVVHDXState *s, bool stable)
{
    freed_move(s->space.committing,
               stable ? s->space.committed : s->space.freed);
}

bool vhdx_space_pending(BDRVVHDXState *s)
{
    return s->space.freed->len || s->space.committing->len ||
           s->space.committed->len > s->space.taken;
}

/*
 * Whether vhdx_space_reclaim() would find something.  Tickets are handed out in
 * order, so what waits for one that is not back yet has all the younger ones
 * behind it.  lock is held.
 */
static bool reclaimable(BDRVVHDXState *s)
{
    VHDXSpace *sp = &s->space;

    return sp->committed->len > sp->taken &&
           g_array_index(sp->committed, VHDXFreed, sp->taken).ticket <=
           vhdx_request_oldest(s);
}

bool vhdx_space_waits(BDRVVHDXState *s)
{
    return s->space.committed->len > s->space.taken && !reclaimable(s);
}

/*
 * To how many bytes the file is cut where the last object ends at @end.  A
 * fixed image keeps what it had when it was opened.
 */
static uint64_t cut_size(BDRVVHDXState *s, uint64_t end)
{
    return s->params.leave_allocated ? MAX(end, s->space.keep) : end;
}

/* Whether so much is free at the end of the file that it is cut off now. */
static bool tail_is_large(BDRVVHDXState *s)
{
    VHDXSpace *sp = &s->space;
    uint64_t end;

    if (sp->fixed_size || sp->uncut || !sp->used ||
        test_bit(sp->end / VHDX_MIB - 1, sp->used)) {
        return false;
    }
    end = cut_size(s, map_end(sp));
    return MIN(sp->end, sp->size) >= end + grow_step(s, end);
}

/* What is free at the end of the file by now is the host's. */
static void tail_punch(BDRVVHDXState *s)
{
    VHDXSpace *sp = &s->space;
    uint64_t end;

    if (test_bit(sp->end / VHDX_MIB - 1, sp->used)) {
        return;
    }
    end = map_end(sp);
    if (end < sp->tail) {
        punch_add(sp, end, MIN(sp->tail, sp->end) - end);
        sp->tail = end;
    }
}

/*
 * Put some places that wait for nobody any more into the map, or forget them
 * if it is not @known what is free.  lock is held.  Returns whether there are
 * more.
 */
static bool reclaim_some(BDRVVHDXState *s, bool known)
{
    VHDXSpace *sp = &s->space;

    for (unsigned i = 0; i < RECLAIM_PLACES && reclaimable(s); i++) {
        VHDXFreed *f = &g_array_index(sp->committed, VHDXFreed, sp->taken++);

        if (known) {
            map_free(s, f->offset, f->length);
            /* It does not read as zeros, though it may lie behind those. */
            sp->zero_from = MAX(sp->zero_from, f->offset + f->length);
            punch_add(sp, f->offset, f->length);
        }
    }
    if (sp->taken > sp->committed->len / 2) {
        g_array_remove_range(sp->committed, 0, sp->taken);
        sp->taken = 0;
    }
    return reclaimable(s);
}

bool coroutine_fn vhdx_space_reclaim(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    bool known, more, large = false;

    /* The disk may hold the names of places that were given up. */
    if (qatomic_read(&s->broken)) {
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (!reclaimable(s)) {
            return false;
        }
    }
    /* What is on no list must not be found free by a scan. */
    qemu_co_mutex_lock(&s->grow_lock);
    known = space_know(bs) == 0 && !s->space.overlap;
    do {
        QEMU_LOCK_GUARD(&s->lock);
        more = reclaim_some(s, known);
        if (!more && known) {
            tail_punch(s);
            large = tail_is_large(s);
        }
    } while (more);
    qemu_co_mutex_unlock(&s->grow_lock);
    return large;
}

/* -- Giving space back to the host -- */

/*
 * Take the next place to be punched, @bytes bytes at @offset, out of the map so
 * that nobody else does.  @zero is set where it lies at the end of the file.
 * lock is held.  Returns false if there is none.
 */
static bool punch_take(VHDXSpace *sp, uint64_t *offset, uint64_t *bytes,
                       bool *zero)
{
    uint64_t first, end;

    if (sp->punch_from >= sp->punch_bits) {
        return false;
    }
    first = find_next_bit(sp->punch, sp->punch_bits, sp->punch_from);
    if (first >= sp->punch_bits) {
        sp->punch_from = UINT64_MAX;
        return false;
    }
    end = MIN(sp->punch_bits, first + PUNCH_BYTES / VHDX_MIB);
    end = find_next_zero_bit(sp->punch, end, first);
    *offset = first * VHDX_MIB;
    *bytes = (end - first) * VHDX_MIB;
    if (*offset < sp->tail && *offset + *bytes > sp->tail) {
        *bytes = sp->tail - *offset;
    }
    *zero = *offset >= sp->tail && !sp->fixed_size;
    punch_forget(sp, *offset, *offset + *bytes);
    bitmap_set(sp->used, first, *bytes / VHDX_MIB);
    sp->punch_from = first;
    return true;
}

int coroutine_fn vhdx_space_zero(BlockDriverState *bs, uint64_t offset,
                                 uint64_t bytes, BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    /* Holes that a failed flush has lost may show yet. */
    bool look = !qatomic_read(&s->no_zeroes);
    int ret = 0;

    for (unsigned i = 0; bytes && ret == 0; i++) {
        int64_t n = bytes;
        int status = 0;

        if (look && i < MAX_STRETCHES) {
            status = bdrv_co_block_status(bs->file->bs, offset, bytes, &n,
                                          NULL, NULL);
        }
        if (status < 0 || !n) {
            status = 0;
            n = bytes;
        }
        if (!(status & BDRV_BLOCK_ZERO)) {
            ret = bdrv_co_pwrite_zeroes(bs->file, offset, n, flags);
        }
        offset += n;
        bytes -= n;
    }
    return ret;
}

/*
 * The host may keep the space if it likes, as it is zeroed on reuse.  But in
 * what lies behind the last object another reader may expect zeros.
 */
static void coroutine_fn GRAPH_RDLOCK
punch(BlockDriverState *bs, uint64_t offset, uint64_t bytes, bool zero)
{
    (void)bdrv_co_pdiscard(bs->file, offset, bytes);
    if (zero) {
        (void)vhdx_space_zero(bs, offset, bytes, BDRV_REQ_MAY_UNMAP |
                              BDRV_REQ_NO_FALLBACK);
    }
}

/* Punch up to @most places.  grow_lock is held.  Returns how many it were. */
static unsigned coroutine_fn GRAPH_RDLOCK
punch_slice(BlockDriverState *bs, unsigned most)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = &s->space;
    uint64_t offset, bytes, size;
    bool zero;
    unsigned n;

    for (n = 0; n < most; n++) {
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            if (!punch_take(sp, &offset, &bytes, &zero)) {
                return n;
            }
            size = sp->size;
        }
        if (offset < size) {
            punch(bs, offset, MIN(bytes, size - offset), zero);
        }
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            map_free(s, offset, bytes);
            sp->zero_from = MAX(sp->zero_from, offset + bytes);
        }
    }
    return n;
}

void coroutine_fn vhdx_space_punch(BlockDriverState *bs, unsigned most)
{
    BDRVVHDXState *s = bs->opaque;
    /*
     * A fixed image keeps its space; what was free in an inactive one another
     * process may be using.
     */
    bool any = !s->params.leave_allocated &&
               !(bs->open_flags & BDRV_O_INACTIVE);

    while (most && any) {
        unsigned slice = MIN(most, PUNCH_SLICE);

        WITH_QEMU_LOCK_GUARD(&s->lock) {
            any = s->space.punch_from < s->space.punch_bits;
        }
        if (any && !qatomic_read(&s->broken)) {
            qemu_co_mutex_lock(&s->grow_lock);
            any = punch_slice(bs, slice) == slice;
            qemu_co_mutex_unlock(&s->grow_lock);
        }
        most -= slice;
    }
}

/* -- A shorter file -- */

bool vhdx_space_cut_begin(BDRVVHDXState *s, uint64_t *size)
{
    QEMU_LOCK_GUARD(&s->lock);
    if (!tail_is_large(s)) {
        return false;
    }
    /* Nothing is taken behind this from now on. */
    *size = s->space.size;
    s->space.end = map_end(&s->space);
    s->space.size = cut_size(s, s->space.end);
    punch_forget(&s->space, s->space.end, UINT64_MAX);
    return true;
}

void vhdx_space_cut_undo(BDRVVHDXState *s, uint64_t size)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->space.size = size;
    /* Blocks that are gone may have been anywhere up to there. */
    s->space.zero_from = MAX(s->space.zero_from, size);
}

/*
 * The file has not been cut: @ret.  A raw node that was given a length keeps
 * that, and nothing is lost by it.
 */
static void GRAPH_RDLOCK cut_failed(BlockDriverState *bs, int ret)
{
    BDRVVHDXState *s = bs->opaque;
    bool told;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        told = s->space.cut_told;
        s->space.cut_told = true;
    }
    if (!told && !qdict_haskey(bs->file->bs->options, "size")) {
        warn_report("VHDX image '%s': the unused end of the file could not be "
                    "cut off: %s", bs->filename, strerror(-ret));
    }
}

void coroutine_fn vhdx_space_cut(BlockDriverState *bs, uint64_t end,
                                 uint64_t size)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = &s->space;
    int ret = bdrv_co_truncate(bs->file, end, false, PREALLOC_MODE_OFF, 0,
                               NULL);
    int known = vhdx_space_measure(bs);
    bool cut;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        cut = known == 0 && sp->size <= end;
        sp->uncut = !cut;
        /* What is left of the tail is not known to be zero. */
        sp->zero_from = UINT64_MAX;
        if (known < 0) {
            sp->size = end;
            sp->zero_from = size;
        }
    }
    if (ret < 0 && !cut) {
        cut_failed(bs, ret);
    }
}

int coroutine_fn vhdx_space_assure(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t size = s->space.size;
    int ret = vhdx_space_measure(bs);

    if (ret < 0 || !s->space.unsure) {
        return ret;
    }
    /* Blocks may lie where the file ends no more. */
    size = MAX(size, s->space.size);
    ret = bdrv_co_truncate(bs->file, size, false, PREALLOC_MODE_OFF, 0, NULL);
    if (vhdx_length_refused(ret) && size == s->space.size) {
        /* What can't be made longer has not got shorter either. */
        ret = 0;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->space.size = size;
    }
    s->space.unsure = ret < 0;
    return ret;
}

void coroutine_fn vhdx_space_trim(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = &s->space;
    uint64_t end;
    int ret;

    if (sp->fixed_size) {
        return;
    }
    if (sp->scanned ? !sp->damaged && !sp->overlap &&
                      !test_bit(sp->end / VHDX_MIB - 1, sp->used)
                    : !s->keep_tail && !s->params.leave_allocated) {
        /*
         * There may be more below it that was freed in the past, or is a tail
         * that another writer has left.
         */
        ret = vhdx_space_scan(bs);
        if (ret < 0) {
            /* No map is kept of a file so long. */
            if (ret != -EOVERFLOW) {
                cut_failed(bs, ret);
            }
            return;
        }
    }
    end = cut_size(s, sp->end);
    if (end < sp->size) {
        vhdx_space_cut(bs, end, sp->size);
    }
}
