/*
 * VHDX crash test: whether dirty bitmaps have what they must have
 *
 * A state is right if a bitmap that counts has all that it must have, and the
 * bits of each request of which there is something to be seen though it has not
 * ended; whichever store it is from, and whether the driver was to store
 * anything at all.  Where it has no bit, no content shows that is older than
 * what there was when it was cleared or made.
 *
 * That bitmaps do count is looked at where nothing has been changed since they
 * were stored: they have these bits and no other then.  One that a job uses is
 * not stored so that it counts.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/dirty-bitmap.h"
#include "qemu/host-utils.h"
#include "vhdx-crash-dirty.h"

#define PAGE_BITS   (CRASH_PAGE * 8)

/* -- What a state has -- */

/* The bitmap that has this name now, or NULL */
static CrashTrack *track_of(const CrashModel *model, const char *name)
{
    for (guint i = model->tracks->list->len; i--;) {
        CrashTrack *t = g_ptr_array_index(model->tracks->list, i);

        if (t->added <= model->now && model->now < t->gone_end &&
            !strcmp(t->name, name)) {
            return t;
        }
    }
    return NULL;
}

/* The first bit of @bits that is set in one, but not in @other, plus 1, or 0 */
static uint64_t bits_differ(const CrashTrack *t, const uint8_t *bits,
                            const CrashBitmap *b, bool reverse)
{
    static const uint8_t zeros[CRASH_PAGE];

    for (uint64_t i = 0; i < b->page_count; i++) {
        const uint8_t *x = bits + i * CRASH_PAGE;
        const uint8_t *y = b->pages[i] ? b->pages[i]->data : zeros;

        for (int k = 0; memcmp(x, y, CRASH_PAGE) && k < CRASH_PAGE; k++) {
            uint8_t more = reverse ? y[k] & ~x[k] : x[k] & ~y[k];

            if (more) {
                return i * PAGE_BITS + k * 8 + ctz32(more) + 1;
            }
        }
    }
    return 0;
}

/*
 * Whether @sector, which holds write @id, was changed while @t recorded, by a
 * request that has not ended or failed, or by a discard.
 */
static bool is_changed(const CrashModel *model, const CrashTrack *t,
                       uint64_t sector, uint32_t id)
{
    uint64_t granule = sector * CRASH_SECTOR >> t->granularity;
    const GuestOp *op;

    if (!id) {
        return t->enabled && tracks_dropped(model->tracks, sector) > t->since;
    }
    if (id < model->first_id || id - model->first_id >= model->ops->len) {
        return false;
    }
    op = &g_array_index(model->ops, GuestOp, id - model->first_id);
    return op->end > model->now ? t->enabled :
           op->ret < 0 && (t->may[granule / 8] & 1 << granule % 8);
}

/*
 * Whether write @id, which sector number @i of all spots holds, is older than
 * what there was when @t began to record, and has been stored since.
 */
static bool is_older(const CrashModel *model, const CrashTrack *t, guint i,
                     uint32_t id)
{
    const CrashSpot *spot = &g_array_index(model->spots, CrashSpot,
                                           i / CRASH_SECTORS);
    uint32_t floor = t->enabled && t->since < model->tracks->storing ?
                     t->floor[i] : 0;

    if (!id) {
        return spot->zero[i % CRASH_SECTORS] < floor;
    }
    if (id < model->first_id || id - model->first_id >= model->ops->len) {
        return floor;
    }
    return g_array_index(model->ops, GuestOp,
                         id - model->first_id).end < floor;
}

/* Whether such a change is to be seen where @b has no bit; says where. */
static bool is_missed(const CrashModel *model, const CrashTrack *t,
                      const CrashBitmap *b, const uint32_t *seen,
                      uint64_t *sector)
{
    for (guint i = 0; i < model->spots->len * CRASH_SECTORS; i++) {
        uint64_t page = g_array_index(model->spots, CrashSpot,
                                      i / CRASH_SECTORS).page, granule;

        *sector = page * CRASH_SECTORS + i % CRASH_SECTORS;
        granule = *sector * CRASH_SECTOR >> t->granularity;
        if (granule < b->granules &&
            (is_changed(model, t, *sector, seen[i]) ||
             is_older(model, t, i, seen[i])) &&
            !(bitmap_byte(b, granule / 8) & 1 << granule % 8)) {
            return true;
        }
    }
    return false;
}

/* Check @b, which counts, and is to have what @t tells. */
static char *check_counting(const CrashModel *model, const CrashTrack *t,
                            const CrashBitmap *b, const uint32_t *seen)
{
    uint64_t at;

    if (t->bad) {
        return text("was inconsistent, and counts");
    }
    if (b->granularity != t->granularity || b->granules != t->granules) {
        return text("has %" PRIu64 " granules of 2^%u bytes", b->granules,
                    b->granularity);
    }
    if (t->enabled && !b->enabled) {
        return text("would not record writes");
    }
    at = bits_differ(t, t->must, b, false);
    if (at) {
        return text("misses granule %" PRIu64 " of 2^%u bytes", at - 1,
                    t->granularity);
    }
    if (is_missed(model, t, b, seen, &at)) {
        return text("misses what there is in sector %" PRIu64, at);
    }
    at = bits_differ(t, t->may, b, true);
    if (at && model->tracks->quiet && !model->tracks->rough) {
        return text("has granule %" PRIu64 " of 2^%u bytes, which has not "
                    "changed", at - 1, t->granularity);
    }
    return model->tracks->quiet && b->enabled != t->enabled ?
           text("would record writes") : NULL;
}

char *tracks_check(const CrashModel *model, const CrashDirty *dirty,
                   const uint32_t *seen)
{
    char *why = NULL;

    for (guint i = 0; model->tracks && i < dirty->list->len; i++) {
        CrashBitmap *b = g_ptr_array_index(dirty->list, i);
        CrashTrack *t = track_of(model, b->name);

        if (!t) {
            return text("there is a bitmap '%s'", b->name);
        }
        if (b->counts) {
            why = check_counting(model, t, b, seen);
        } else if (model->tracks->quiet && !t->bad && !t->job_must) {
            why = text("does not count");
        }
        if (why) {
            char *more = text("bitmap '%s' %s", b->name, why);

            g_free(why);
            return more;
        }
    }
    for (guint i = 0; model->tracks && i < model->tracks->list->len; i++) {
        CrashTrack *t = g_ptr_array_index(model->tracks->list, i);

        if (t->stored && model->now < t->gone_start &&
            !dirty_find(dirty, t->name)) {
            return text("there is no bitmap '%s'", t->name);
        }
    }
    return NULL;
}

/* -- What the driver makes of it -- */

/* Whether @bitmap has the bits of @b, which counts. */
static bool same_bits(BdrvDirtyBitmap *bitmap, const CrashBitmap *b)
{
    int64_t size = bdrv_dirty_bitmap_size(bitmap), start, count;
    uint64_t left = 0;

    for (uint64_t i = 0; i < b->page_count; i++) {
        for (int k = 0; b->pages[i] && k < CRASH_PAGE; k++) {
            left += ctpop8(b->pages[i]->data[k]);
        }
    }
    for (int64_t at = 0;
         bdrv_dirty_bitmap_next_dirty_area(bitmap, at, size, INT64_MAX, &start,
                                           &count);
         at = start + count) {
        uint64_t last = (start + count - 1) >> b->granularity;

        for (uint64_t i = start >> b->granularity; i <= last; i++, left--) {
            if (!(bitmap_byte(b, i / 8) & 1 << i % 8)) {
                return false;
            }
        }
    }
    return !left;
}

char *dirty_check_driver(BlockDriverState *bs, const CrashDirty *dirty)
{
    BdrvDirtyBitmap *bitmap;
    guint count = 0;

    FOR_EACH_DIRTY_BITMAP(bs, bitmap) {
        const char *name = bdrv_dirty_bitmap_name(bitmap);
        CrashBitmap *b = dirty_find(dirty, name);

        count++;
        if (!b || !bdrv_dirty_bitmap_get_persistence(bitmap)) {
            return text("the driver has a bitmap '%s'", name);
        }
        if (bdrv_dirty_bitmap_granularity(bitmap) != 1U << b->granularity ||
            bdrv_dirty_bitmap_inconsistent(bitmap) == b->counts ||
            (b->counts && (bdrv_dirty_bitmap_enabled(bitmap) != b->enabled ||
                           !same_bits(bitmap, b)))) {
            return text("driver and reader differ in bitmap '%s'", name);
        }
    }
    return count == dirty->list->len ? NULL :
           text("the driver has %u bitmaps of %u", count, dirty->list->len);
}
