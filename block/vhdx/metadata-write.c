/*
 * VHDX: changing metadata items
 *
 * What an item has to hold is written to a place in the metadata region where
 * there is no item, and made stable.  Then the table, all of whose entries that
 * a program writes are on one page, gets to name the new items in place of the
 * old ones.  So a power cut leaves the old items or the new ones, all of them,
 * and no commit beside these two matters.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/range.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/cache-write.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/metadata-write.h"

/* Items begin at multiples of that. */
#define ITEM_ALIGN  8

/* So many entries are on the table's first page. */
#define PAGE_ITEMS  (VHDX_PAGE_SIZE / VHDX_TABLE_ENTRY_SIZE - 1)

/* Read the table of items from the pages that have it. */
static int coroutine_fn GRAPH_RDLOCK
table_read(BlockDriverState *bs, uint8_t *buf)
{
    BDRVVHDXState *s = bs->opaque;

    for (uint32_t at = 0; at < VHDX_METADATA_TABLE_SIZE; at += VHDX_PAGE_SIZE) {
        VHDXPage *page;
        int ret;

        VHDX_LOCK_GUARD(s);
        ret = vhdx_cache_get(bs, s->metadata.offset + at, &page);
        if (ret < 0) {
            return ret;
        }
        memcpy(buf + at, page->data, VHDX_PAGE_SIZE);
    }
    return 0;
}

/* A place of @length bytes in the region between @items, or 0 */
static uint32_t place_find(BDRVVHDXState *s, const VHDXItem *items,
                           uint32_t count, uint32_t length)
{
    uint32_t offset = VHDX_METADATA_TABLE_SIZE;

    for (uint32_t i = 0; i < count; ) {
        if (items[i].length && ranges_overlap(offset, length, items[i].offset,
                                              items[i].length)) {
            offset = ROUND_UP(items[i].offset + items[i].length, ITEM_ALIGN);
            i = 0;
        } else {
            i++;
        }
    }
    return offset <= s->items_limit - length ? offset : 0;
}

/*
 * Write the content of @change where none of the @count items @all is, the
 * last of which it becomes.
 */
static int coroutine_fn GRAPH_RDLOCK
item_write(BlockDriverState *bs, const VHDXItemChange *change, VHDXItem *all,
           uint32_t count, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXItem *item = &all[count - 1];
    int ret;

    *item = (VHDXItem) {
        .guid = *change->guid,
        .length = change->length,
        .flags = VHDX_ITEM_REQUIRED | change->flags,
    };
    item->offset = place_find(s, all, count - 1, change->length);
    if (!item->offset) {
        error_setg(errp, "The metadata region of %" PRIu32 " bytes has no room "
                   "for an item of %" PRIu32 " bytes", s->items_limit,
                   change->length);
        return -ENOSPC;
    }
    ret = vhdx_cache_write(bs, s->metadata.offset + item->offset, item->length,
                           change->buf);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the metadata region");
    }
    return ret;
}

/*
 * Let the table be @new, and make that stable; @old is what it has been.
 * [change-reported]
 */
static int coroutine_fn GRAPH_RDLOCK
table_write(BlockDriverState *bs, const uint8_t *new, const uint8_t *old,
            Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    ret = vhdx_cache_write(bs, s->metadata.offset, VHDX_PAGE_SIZE, new);
    if (ret == 0) {
        ret = vhdx_commit_locked(bs);
        if (ret < 0) {
            /* The page is in memory: nothing is read. */
            (void)vhdx_cache_write(bs, s->metadata.offset, VHDX_PAGE_SIZE, old);
        }
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the metadata table");
    }
    return ret;
}

/*
 * Take out of @items, of which the first @old were there before, those that
 * @changes has.  Returns how many of the @count are left.
 */
static uint32_t items_drop_old(VHDXItem *items, uint32_t old, uint32_t count,
                               const VHDXItemChange *changes, unsigned n)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        bool goes = false;

        for (unsigned j = 0; j < n && i < old; j++) {
            goes |= !(items[i].flags & VHDX_ITEM_USER) &&
                    vhdx_guid_equal(&items[i].guid, changes[j].guid);
        }
        if (!goes) {
            items[kept++] = items[i];
        }
    }
    return kept;
}

/* [entries-first] */
int coroutine_fn
vhdx_metadata_change(BlockDriverState *bs, const VHDXItemChange *changes,
                     unsigned count, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *old = g_malloc(VHDX_METADATA_TABLE_SIZE);
    g_autofree uint8_t *new = g_malloc(VHDX_METADATA_TABLE_SIZE);
    g_autofree VHDXItem *items = NULL, *all = NULL;
    uint32_t before, n, kept;
    int ret;

    vhdx_assert_commit_locked(s);
    vhdx_assert_unlocked(s);
    ret = table_read(bs, old);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the metadata table");
        return ret;
    }
    ret = vhdx_metadata_table_decode(old, s->metadata.length, &items, &before,
                                     errp);
    if (ret < 0) {
        return ret;
    }
    n = before;
    /* The old items first, as nothing is written over one of them. */
    all = g_new(VHDXItem, before + count);
    memcpy(all, items, before * sizeof(*all));
    for (unsigned i = 0; i < count; i++) {
        if (changes[i].buf) {
            ret = item_write(bs, &changes[i], all, ++n, errp);
            if (ret < 0) {
                return ret;
            }
        }
    }
    kept = items_drop_old(all, before, n, changes, count);
    if (MAX(kept, before) > PAGE_ITEMS) {
        error_setg(errp, "The metadata table has %" PRIu32 " entries; items "
                   "can only be changed in a table of up to %d", before,
                   (int)PAGE_ITEMS);
        return -ENOTSUP;
    }
    ret = vhdx_commit_locked(bs);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write metadata items");
        return ret;
    }
    vhdx_metadata_table_encode(all, kept, new);
    ret = table_write(bs, new, old, errp);
    if (ret == 0) {
        VHDX_LOCK_GUARD(s);
        s->items_end = vhdx_metadata_items_end(all, kept);
    }
    return ret;
}
