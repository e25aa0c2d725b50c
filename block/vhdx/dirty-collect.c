/*
 * VHDX: which dirty bitmaps are to be stored, and where
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "block/vhdx/dirty-collect.h"

/* -- What is to be stored -- */

void vhdx_dirty_store_init(VHDXDirtyStore *st, BlockDriverState *bs)
{
    *st = (VHDXDirtyStore) {
        .bs = bs,
        .list = vhdx_dirty_list_new(),
        .from = g_ptr_array_new(),
        .buf = qemu_blockalign(bs->file->bs,
                               VHDX_DIRTY_RUN_PAGES * VHDX_PAGE_SIZE),
    };
}

void vhdx_dirty_store_free(VHDXDirtyStore *st)
{
    g_ptr_array_unref(st->list);
    g_ptr_array_unref(st->from);
    qemu_vfree(st->buf);
}

/*
 * QEMU's bitmaps may have bits behind their end, where ones have been put into
 * them, or merged.
 */
void vhdx_dirty_part_read(BdrvDirtyBitmap *bitmap, const VHDXDirtyPart *part,
                          uint8_t *buf)
{
    memset(buf, 0, VHDX_PAGE_SIZE);
    bdrv_dirty_bitmap_serialize_part(bitmap, buf, part->offset, part->bytes);
    vhdx_dirty_page_trim(buf, part->bits);
}

/* Let @b have the map of @bitmap, with pages that have no place yet. */
static void map_fill(VHDXDirtyBitmap *b, BdrvDirtyBitmap *bitmap, uint8_t *buf)
{
    uint64_t size = bdrv_dirty_bitmap_size(bitmap);
    uint32_t i = 0;

    b->map_count = vhdx_dirty_map_count(size, b->granularity);
    b->map = g_new0(VHDXDirtyMap, b->map_count);
    while (i < b->map_count) {
        VHDXDirtyPart part = vhdx_dirty_part(size, b->granularity, i);
        int64_t dirty = bdrv_dirty_bitmap_next_dirty(bitmap, part.offset,
                                                     size - part.offset);

        if (dirty < 0) {
            break;
        }
        i += (dirty - part.offset) /
             ((uint64_t)VHDX_DIRTY_PAGE_BITS << b->granularity);
        part = vhdx_dirty_part(size, b->granularity, i);
        vhdx_dirty_part_read(bitmap, &part, buf);
        if (!vhdx_dirty_page_plain(buf, part.bits, &b->map[i])) {
            b->map[i] = (VHDXDirtyMap) {
                .page = VHDX_DIRTY_UNPLACED,
                .crc = vhdx_dirty_crc(buf, VHDX_PAGE_SIZE),
            };
        }
        i++;
    }
}

/* [dirty-never-fewer] */
void vhdx_dirty_store_add(VHDXDirtyStore *st, const VHDXDirtyBitmap *old,
                          BdrvDirtyBitmap *bitmap)
{
    BDRVVHDXState *s = st->bs->opaque;
    VHDXDirtyBitmap *b;

    if (bitmap) {
        uint64_t size = bdrv_dirty_bitmap_size(bitmap);

        b = vhdx_dirty_bitmap_new(bdrv_dirty_bitmap_name(bitmap),
                                  ctz32(bdrv_dirty_bitmap_granularity(bitmap)));
        b->enabled = bdrv_dirty_bitmap_enabled(bitmap);
        /*
         * As long as a backup uses it, it has not what is written meanwhile.
         * After a resize that has failed it may not be of the disk's size.
         */
        b->inconsistent = bdrv_dirty_bitmap_inconsistent(bitmap) ||
            bdrv_dirty_bitmap_has_successor(bitmap) ||
            size != s->params.disk_size ||
            vhdx_dirty_bits_bytes(size, b->granularity) > VHDX_DIRTY_MAX_BITS;
    } else {
        b = vhdx_dirty_bitmap_new(old->name, old->granularity);
        b->enabled = old->enabled;
        b->inconsistent = true;
    }
    if (b->inconsistent) {
        bitmap = NULL;
    } else {
        map_fill(b, bitmap, st->buf);
    }
    g_ptr_array_add(st->list, b);
    g_ptr_array_add(st->from, bitmap);
}

void vhdx_dirty_store_collect(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;
    BdrvDirtyBitmap *bitmap;

    for (guint i = 0; s->dirty && i < s->dirty->list->len; i++) {
        VHDXDirtyBitmap *old = g_ptr_array_index(s->dirty->list, i);

        bitmap = bdrv_find_dirty_bitmap(st->bs, old->name);
        if (bitmap && !bdrv_dirty_bitmap_get_persistence(bitmap)) {
            bitmap = NULL;
        }
        vhdx_dirty_store_add(st, old, bitmap);
    }
    FOR_EACH_DIRTY_BITMAP(st->bs, bitmap) {
        if (bdrv_dirty_bitmap_get_persistence(bitmap) &&
            !vhdx_dirty_list_find(st->list, bdrv_dirty_bitmap_name(bitmap))) {
            vhdx_dirty_store_add(st, NULL, bitmap);
        }
    }
}

/* Whether the maps of @a and @b tell the same bits. */
static bool same_bits(const VHDXDirtyBitmap *a, const VHDXDirtyBitmap *b)
{
    if (!a->map || !b->map || a->map_count != b->map_count) {
        return a->map == b->map;
    }
    for (uint32_t i = 0; i < a->map_count; i++) {
        uint32_t page = MIN(a->map[i].page, VHDX_DIRTY_UNPLACED);

        if (page != MIN(b->map[i].page, VHDX_DIRTY_UNPLACED) ||
            a->map[i].crc != b->map[i].crc) {
            return false;
        }
    }
    return true;
}

bool vhdx_dirty_store_is_same(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;
    bool current = vhdx_dirty_is_current(s);

    if (st->list->len != (s->dirty ? s->dirty->list->len : 0)) {
        return false;
    }
    for (guint i = 0; i < st->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(st->list, i);
        VHDXDirtyBitmap *old = g_ptr_array_index(s->dirty->list, i);

        /* What can't be used in the file can't be used here. */
        if (!b->inconsistent &&
            (!current || old->inconsistent || b->enabled != old->enabled ||
             !same_bits(b, old))) {
            return false;
        }
    }
    return true;
}

/* -- Places -- */

static uint32_t map_pages(const VHDXDirtyBitmap *b)
{
    return vhdx_dirty_pages((uint64_t)b->map_count * VHDX_DIRTY_MAP_SIZE);
}

/* How many pages of bits @b has. */
static uint32_t bits_pages(const VHDXDirtyBitmap *b)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < b->map_count; i++) {
        count += b->map[i].page >= VHDX_DIRTY_UNPLACED;
    }
    return count;
}

uint32_t vhdx_dirty_store_pages(VHDXDirtyStore *st)
{
    uint64_t count = vhdx_dirty_pages(vhdx_dirty_directory_bytes(st->list));

    for (guint i = 0; i < st->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(st->list, i);

        count += map_pages(b) + bits_pages(b);
    }
    return count;
}

bool vhdx_dirty_store_place(VHDXDirtyStore *st, VHDXDirtyPlaces *places)
{
    uint64_t bytes = vhdx_dirty_directory_bytes(st->list);

    st->head.directory_bytes = bytes;
    st->head.directory_page = vhdx_dirty_place(places, vhdx_dirty_pages(bytes));
    if (!st->head.directory_page) {
        return false;
    }
    for (guint i = 0; i < st->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(st->list, i);

        if (!b->map_count) {
            continue;
        }
        b->map_page = vhdx_dirty_place(places, map_pages(b));
        if (!b->map_page) {
            return false;
        }
        for (uint32_t j = 0; j < b->map_count; j++) {
            if (b->map[j].page < VHDX_DIRTY_UNPLACED) {
                continue;
            }
            b->map[j].page = vhdx_dirty_place(places, 1);
            if (!b->map[j].page) {
                b->map[j].page = VHDX_DIRTY_UNPLACED;
                return false;
            }
        }
    }
    return true;
}

/*
 * Let @b have all bits of the last @count pages that have bits of their own, or
 * of all if there are no more.  [dirty-never-fewer]
 */
static void round_up(VHDXDirtyBitmap *b, uint32_t count)
{
    for (uint32_t i = b->map_count; i-- > 0 && count > 0; ) {
        if (b->map[i].page >= VHDX_DIRTY_UNPLACED) {
            b->map[i] = (VHDXDirtyMap) { .page = VHDX_DIRTY_ONES };
            count--;
        }
    }
}

bool vhdx_dirty_store_round_up(VHDXDirtyStore *st, uint32_t most)
{
    uint32_t pages;

    while ((pages = vhdx_dirty_store_pages(st)) > most) {
        VHDXDirtyBitmap *largest = g_ptr_array_index(st->list, 0);

        for (guint i = 1; i < st->list->len; i++) {
            VHDXDirtyBitmap *b = g_ptr_array_index(st->list, i);

            if (bits_pages(b) > bits_pages(largest)) {
                largest = b;
            }
        }
        if (!bits_pages(largest)) {
            return false;
        }
        round_up(largest, pages - most);
        warn_report("VHDX image '%s': there is no space for the dirty bitmap "
                    "'%s'; more than has changed will count as dirty",
                    st->bs->filename, largest->name);
    }
    return true;
}

/* -- Limits -- */

bool vhdx_dirty_store_check(VHDXDirtyStore *st, Error **errp)
{
    uint64_t bytes = vhdx_dirty_directory_bytes(st->list);

    if (st->list->len > VHDX_DIRTY_MAX_COUNT) {
        error_setg(errp, "There are %u persistent bitmaps, and an image can "
                   "have %d", st->list->len, VHDX_DIRTY_MAX_COUNT);
        return false;
    }
    if (bytes > VHDX_DIRTY_MAX_DIRECTORY) {
        error_setg(errp, "The names of the persistent bitmaps take %" PRIu64
                   " bytes, and %" PRIu64 " are allowed", bytes,
                   (uint64_t)VHDX_DIRTY_MAX_DIRECTORY);
        return false;
    }
    return true;
}
