/*
 * VHDX: clearing BAT entries, and covering a parent with them
 *
 * A resize gives up the blocks behind the disk's new end.  Entries behind the
 * last block mean nothing, but may hold anything after a power cut in an
 * earlier resize, or in an image that another program has made.  They are
 * cleared before they get a meaning, and where the user asks for a shorter
 * disk or file.
 *
 * The place of a block that is certain to be one gets free with the entry.
 * What else entries name is only counted, as it may be damaged: a scan will
 * find which space is free then.
 *
 * A sector bitmap block is metadata, to which a replay writes: its place gets
 * free when the log holds nothing of it any more.
 *
 * A child's blocks that are NOT_PRESENT get the state ZERO where its parent
 * must not show.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-clear.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"

typedef struct Clearing {
    const VHDXGeometry *geo;        /* of the disk whose entries stay */
    bool release;                   /* blocks get free */
    GArray *bitmaps;                /* ... and these places are to */
    uint64_t given_up;              /* others that seemed to be blocks' */
    uint64_t entries[VHDX_BAT_PAGE_ENTRIES];    /* on a page, as they read */
} Clearing;

/*
 * Whether entry @index is left from an earlier disk.  In an image without
 * parent the entries to be cleared are those of blocks, or of what would have
 * become some.
 */
static bool is_stale(BDRVVHDXState *s, uint64_t index)
{
    return s->params.has_parent && vhdx_bat_index_is_behind(&s->geo, index);
}

/* Whether @entry, with index @index, names the place of a present block. */
static bool entry_is_block(BDRVVHDXState *s, uint64_t index, uint64_t entry)
{
    uint64_t block;

    return vhdx_bat_is_present(s, entry) && !is_stale(s, index) &&
           !vhdx_bat_index_is_bitmap(&s->geo, index, &block) &&
           vhdx_bat_entry_check(s, index, entry, NULL) == 0;
}

/* Whether it names the place of a sector bitmap block. */
static bool entry_is_bitmap(BDRVVHDXState *s, uint64_t index, uint64_t entry)
{
    uint64_t block;

    return s->params.has_parent && !is_stale(s, index) &&
           vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT &&
           vhdx_bat_index_is_bitmap(&s->geo, index, &block) &&
           vhdx_bat_entry_check(s, index, entry, NULL) == 0;
}

/*
 * Let go of what @entry with index @index, of the raw value @raw, names.  lock
 * is held.
 */
static void entry_let_go(BDRVVHDXState *s, uint64_t index, uint64_t raw,
                         uint64_t entry, Clearing *c)
{
    uint64_t place = vhdx_bat_offset(entry);

    if (c->release && entry_is_block(s, index, entry)) {
        vhdx_space_release(s, place, s->geo.block_size);
    } else if (c->release && entry_is_bitmap(s, index, entry)) {
        g_array_append_val(c->bitmaps, place);
    } else {
        c->given_up += vhdx_bat_may_be_block(s, raw);
    }
}

/* Clear @count entries on one page, @entries, as nobody else changes them. */
static int coroutine_fn GRAPH_RDLOCK
entries_clear_page(BlockDriverState *bs, uint64_t index,
                   const uint64_t *entries, uint64_t count, Clearing *c)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t offset = s->bat.offset + index * VHDX_BAT_ENTRY_SIZE;
    uint64_t in_page = offset % VHDX_PAGE_SIZE;
    VHDXPage *page;
    uint8_t *raw;
    int ret;

    for (uint64_t i = 0; i < count; i++) {
        c->entries[i] = vhdx_bat_entry_resolve(bs, index + i, entries[i]);
    }
    vhdx_lock(s);
    ret = vhdx_cache_get(bs, offset - in_page, &page);
    if (ret < 0) {
        vhdx_unlock(s);
        return ret;
    }
    raw = vhdx_cache_modify(s, page) + in_page;
    for (uint64_t i = 0; i < count; i++) {
        if (vhdx_bat_index_is_behind(c->geo, index + i)) {
            entry_let_go(s, index + i, entries[i], c->entries[i], c);
            stq_le_p(raw + i * VHDX_BAT_ENTRY_SIZE, 0);
        }
    }
    vhdx_change_note(s);
    return vhdx_commit_unlock(bs);
}

static int coroutine_fn GRAPH_RDLOCK
entries_clear_run(BlockDriverState *bs, uint64_t index,
                  const uint64_t *entries, uint64_t count, void *opaque)
{
    while (count) {
        uint64_t n = MIN(count, VHDX_BAT_PAGE_ENTRIES -
                                index % VHDX_BAT_PAGE_ENTRIES);

        if (!buffer_is_zero(entries, n * VHDX_BAT_ENTRY_SIZE)) {
            int ret = entries_clear_page(bs, index, entries, n, opaque);

            if (ret < 0) {
                return ret;
            }
        }
        index += n;
        entries += n;
        count -= n;
    }
    return 0;
}

int64_t coroutine_fn
vhdx_bat_clear(BlockDriverState *bs, const VHDXGeometry *geo, uint64_t end,
               bool release, GArray *bitmaps)
{
    Clearing c = { .geo = geo, .release = release, .bitmaps = bitmaps };
    int ret = vhdx_bat_walk(bs, vhdx_bat_payload_end(geo), end,
                            entries_clear_run, &c);

    return ret < 0 ? ret : c.given_up;
}

int64_t coroutine_fn vhdx_bat_clear_rest(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    Clearing c = { .geo = &s->geo };
    int ret = vhdx_bat_walk(bs, vhdx_bat_payload_end(&s->geo),
                            s->bat.length / VHDX_BAT_ENTRY_SIZE,
                            entries_clear_run, &c);

    if (c.given_up) {
        warn_report("VHDX image '%s': %" PRIu64 " block%s that the BAT named "
                    "behind the end of the disk %s been given up",
                    bs->filename, c.given_up, vhdx_plural(c.given_up),
                    c.given_up == 1 ? "has" : "have");
    }
    return ret < 0 ? ret : c.given_up;
}

/* [move-replay] */
int coroutine_fn vhdx_bat_free_bitmaps(BlockDriverState *bs,
                                       const GArray *bitmaps)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    if (!bitmaps->len) {
        return 0;
    }
    ret = vhdx_commit_checkpoint(bs);
    if (ret < 0) {
        return ret;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        for (guint i = 0; i < bitmaps->len; i++) {
            uint64_t place = g_array_index(bitmaps, uint64_t, i);

            vhdx_bitmap_forget_new(s, place);
            vhdx_cache_drop(s, place, VHDX_BITMAP_SIZE);
            vhdx_space_release(s, place, VHDX_BITMAP_SIZE);
        }
    }
    return vhdx_commit(bs);
}

/* -- Whether something would be lost -- */

/* A look at entries that are to get a meaning */
typedef struct Stale {
    uint8_t *buf;
    uint64_t budget;                /* bytes that may be read for it */
    uint64_t index;                 /* of the one that was found */
    uint64_t offset;                /* ... and what it names */
} Stale;

/*
 * Whether entry @index may have been that of a block of the disk.  Where a
 * child's sector bitmap was of use, so was the entry of a block before it.
 */
static bool may_be_lost(BDRVVHDXState *s, uint64_t index)
{
    uint64_t block;

    return vhdx_bat_index_is_behind(&s->geo, index) &&
           !(s->params.has_parent &&
             vhdx_bat_index_is_bitmap(&s->geo, index, &block));
}

/* Returns 1 at the first entry that names a place with data. */
static int coroutine_fn GRAPH_RDLOCK
stale_find(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
           uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    Stale *st = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t offset = vhdx_bat_offset(entries[i]);
        uint64_t end = MIN(offset + s->geo.block_size, vhdx_file_size(s));
        int ret;

        if (!vhdx_bat_may_be_block(s, entries[i]) ||
            !may_be_lost(s, index + i)) {
            continue;
        }
        st->index = index + i;
        st->offset = offset;
        ret = vhdx_replay_find_data(bs, &offset, end, st->buf, &st->budget);
        if (ret != 0) {
            return ret;
        }
        /* After so much many must have named the same place: no more. */
        if (!st->budget) {
            return 1;
        }
    }
    return 0;
}

int coroutine_fn vhdx_bat_clear_check_rest(BlockDriverState *bs, uint64_t end,
                                           Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    Stale st = {
        .buf = qemu_try_blockalign(bs->file->bs, VHDX_MIB),
        .budget = vhdx_file_size(s),
    };
    int ret = -ENOMEM;

    if (st.buf) {
        ret = vhdx_bat_walk(bs, vhdx_bat_payload_end(&s->geo),
                            MIN(end, s->bat.length / VHDX_BAT_ENTRY_SIZE),
                            stale_find, &st);
    }
    qemu_vfree(st.buf);
    if (ret > 0) {
        /* There is data in that place: it is another block's, or lost. */
        qemu_co_mutex_lock(&s->grow_lock);
        ret = vhdx_space_scan(bs);
        qemu_co_mutex_unlock(&s->grow_lock);
        if (ret == -EOVERFLOW || (ret == 0 && vhdx_space_lost(s))) {
            error_setg(errp, "BAT entry %" PRIu64 ", behind the end of the "
                       "disk, names a block with data at offset 0x%" PRIx64
                       ", which would be lost", st.index, st.offset);
            error_append_hint(errp, "The disk's size may be damaged. 'qemu-img "
                              "check' tells how many such blocks there are.\n"
                              "They are given up when the disk is made "
                              "shorter or the image is compacted.\n");
            return -EINVAL;
        }
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the BAT");
    }
    return ret;
}

/* Returns 1 at an entry that is PARTIALLY_PRESENT and can't be read. */
static int coroutine_fn GRAPH_RDLOCK
partial_find(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
             uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t *found = opaque;
    uint64_t block;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t entry = vhdx_bat_entry_resolve(bs, index + i, entries[i]);

        if (vhdx_bat_state(entry) == VHDX_BLOCK_PARTIALLY_PRESENT &&
            !vhdx_bat_index_is_bitmap(&s->geo, index + i, &block)) {
            *found = index + i;
            return 1;
        }
    }
    return 0;
}

int coroutine_fn vhdx_bat_clear_check_parent(BlockDriverState *bs,
                                             uint64_t first, uint64_t end,
                                             Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t found;
    int ret;

    if (s->params.has_parent) {
        return 0;
    }
    if (s->has_locator) {
        error_setg(errp, "it has a Parent Locator, but HasParent of "
                   "File Parameters is 0");
        return -EINVAL;
    }
    ret = vhdx_bat_walk(bs, first, end, partial_find, &found);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the BAT");
    } else if (ret > 0) {
        error_setg(errp, "BAT entry %" PRIu64 " is PARTIALLY_PRESENT, with a "
                   "sector bitmap in an image without parent", found);
    }
    return ret ? -EINVAL : 0;
}

/* -- Zeros in place of a parent -- */

/* Cover the blocks from *@block on, to the end of its BAT page or @end. */
static int coroutine_fn GRAPH_RDLOCK
page_cover(BlockDriverState *bs, uint64_t *block, uint64_t end)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t index = vhdx_bat_index(&s->geo, *block);
    uint64_t offset = s->bat.offset + index * VHDX_BAT_ENTRY_SIZE;
    uint64_t in_page = offset % VHDX_PAGE_SIZE;
    uint8_t *raw = NULL;
    VHDXPage *page;
    int ret;

    vhdx_lock(s);
    ret = vhdx_cache_get(bs, offset - in_page, &page);
    if (ret < 0) {
        vhdx_unlock(s);
        return ret;
    }
    for (; in_page < VHDX_PAGE_SIZE && *block < end; index++) {
        uint64_t entry = ldq_le_p(page->data + in_page);
        uint64_t number;

        if (!vhdx_bat_index_is_bitmap(&s->geo, index, &number)) {
            if (vhdx_bat_state(entry) == VHDX_BLOCK_NOT_PRESENT &&
                !(entry & VHDX_BAT_RESERVED_MASK)) {
                raw = raw ?: vhdx_cache_modify(s, page);
                stq_le_p(raw + in_page, vhdx_bat_entry(VHDX_BLOCK_ZERO, 0));
            }
            ++*block;
        }
        in_page += VHDX_BAT_ENTRY_SIZE;
    }
    if (raw) {
        vhdx_change_note(s);
    }
    return vhdx_commit_unlock(bs);
}

int coroutine_fn
vhdx_bat_cover(BlockDriverState *bs, uint64_t first, uint64_t end)
{
    int ret = 0;

    while (ret == 0 && first < end) {
        ret = page_cover(bs, &first, end);
    }
    return ret;
}
