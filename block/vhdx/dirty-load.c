/*
 * VHDX: reading dirty bitmaps
 *
 * A bitmap counts only as long as FileWriteGuid, DataWriteGuid and the disk's
 * size are those that its head names.  The first change of an image gives it a
 * new FileWriteGuid before anything else, so it is the mark that bitmaps are in
 * use, at no write of its own; and what other programs change shows as well.
 * Such a bitmap is inconsistent: it is listed, and can be removed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "block/vhdx/dirty-load.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/replay.h"
#include "trace.h"

/* So many pages of bits are read at once. */
#define RUN_PAGES   256

static void dirty_bitmaps_free(VHDXDirtyBitmaps *dirty)
{
    if (dirty) {
        g_free(dirty->error);
        g_ptr_array_unref(dirty->list);
        g_free(dirty);
    }
}

void vhdx_dirty_free(BDRVVHDXState *s)
{
    g_clear_pointer(&s->dirty, dirty_bitmaps_free);
}

/* [dirty-current] */
bool vhdx_dirty_is_current(BDRVVHDXState *s)
{
    VHDXDirtyBitmaps *d = s->dirty;

    return d && !d->error && !vhdx_guid_is_nil(&d->head.file_write_guid) &&
           vhdx_guid_equal(&d->head.file_write_guid,
                           &s->header.file_write_guid) &&
           vhdx_guid_equal(&d->head.data_write_guid,
                           &s->header.data_write_guid) &&
           d->head.disk_size == s->params.disk_size;
}

/* Read @bytes bytes from page @page of the metadata region on. */
static int coroutine_fn GRAPH_RDLOCK
pages_read(BlockDriverState *bs, uint32_t page, uint64_t bytes, void *buf,
           Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_replay_read(bs, s->metadata.offset +
                               (uint64_t)page * VHDX_PAGE_SIZE, bytes, buf);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read page %" PRIu32 " of the "
                         "metadata region", page);
    }
    return ret;
}

/*
 * Look for the head, where @d is to have it.  Returns 1 if there is one, 0 if
 * not, or -errno; then @d->page is 0 if it is not known where it is.
 */
static int coroutine_fn GRAPH_RDLOCK
head_read(BlockDriverState *bs, VHDXDirtyBitmaps *d, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint32_t pages = vhdx_dirty_region_pages(s);
    g_autofree uint8_t *buf = g_malloc(VHDX_PAGE_SIZE);
    uint32_t page = vhdx_dirty_first_page(s);
    int ret;

    for (; page < pages; page += VHDX_DIRTY_HEAD_PAGES) {
        ret = pages_read(bs, page, VHDX_PAGE_SIZE, buf, errp);
        if (ret < 0) {
            return ret;
        }
        if (vhdx_dirty_head_found(buf)) {
            d->page = page;
            ret = vhdx_dirty_head_decode(buf, page, pages, &d->head, errp);
            return ret < 0 ? ret : 1;
        }
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
directory_read(BlockDriverState *bs, VHDXDirtyBitmaps *d, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc(d->head.directory_bytes);
    GPtrArray *list;
    int ret;

    ret = pages_read(bs, d->head.directory_page, d->head.directory_bytes, buf,
                     errp);
    if (ret < 0) {
        return ret;
    }
    list = vhdx_dirty_directory_decode(buf, &d->head, d->page,
                                       vhdx_dirty_region_pages(s), errp);
    if (!list) {
        return -EINVAL;
    }
    g_ptr_array_unref(d->list);
    d->list = list;
    return 0;
}

int coroutine_fn vhdx_dirty_map_read(BlockDriverState *bs, VHDXDirtyBitmap *b,
                                     Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    size_t bytes = b->map_count * VHDX_DIRTY_MAP_SIZE;
    g_autofree uint8_t *buf = g_malloc(bytes);
    int ret;

    if (!b->map_count) {
        /* A disk of size 0 */
        return 0;
    }
    ret = pages_read(bs, b->map_page, bytes, buf, errp);
    if (ret < 0) {
        return ret;
    }
    if (vhdx_dirty_crc(buf, bytes) != b->map_crc) {
        error_setg(errp, "its map has a wrong checksum");
        return -EINVAL;
    }
    b->map = g_new(VHDXDirtyMap, b->map_count);
    return vhdx_dirty_map_decode(buf, b->map_count, s->dirty->page,
                                 vhdx_dirty_region_pages(s), b->map, errp);
}

/* How many entries of the map of @b from @index on name pages in a row. */
static uint32_t run_length(const VHDXDirtyBitmap *b, uint32_t index)
{
    uint32_t first = b->map[index].page, n = 1;

    while (n < RUN_PAGES && index + n < b->map_count &&
           b->map[index + n].page == first + n) {
        n++;
    }
    return n;
}

/*
 * Read the @n pages of @b from @index on to @buf and judge them; @bitmap gets
 * them, if it is not NULL.
 */
static int coroutine_fn GRAPH_RDLOCK
run_read(BlockDriverState *bs, const VHDXDirtyBitmap *b, uint32_t index,
         uint32_t n, uint8_t *buf, BdrvDirtyBitmap *bitmap, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = pages_read(bs, b->map[index].page, n * VHDX_PAGE_SIZE, buf, errp);

    if (ret < 0) {
        return ret;
    }
    for (uint32_t i = index; i < index + n; i++, buf += VHDX_PAGE_SIZE) {
        VHDXDirtyPart part = vhdx_dirty_part(s->params.disk_size,
                                             b->granularity, i);

        if (!vhdx_dirty_page_valid(buf, part.bits, &b->map[i])) {
            error_setg(errp, "its page %" PRIu32 " is damaged", i);
            return -EINVAL;
        }
        if (bitmap) {
            bdrv_dirty_bitmap_deserialize_part(bitmap, buf, part.offset,
                                               part.bytes, false);
        }
        /* Another program may have written what needs no page. */
        (void)vhdx_dirty_page_plain(buf, part.bits, &b->map[i]);
    }
    return 0;
}

int coroutine_fn vhdx_dirty_bits_read(BlockDriverState *bs,
                                      const VHDXDirtyBitmap *b,
                                      BdrvDirtyBitmap *bitmap, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc(RUN_PAGES * VHDX_PAGE_SIZE);
    uint32_t n;
    int ret;

    for (uint32_t i = 0; i < b->map_count; i += n) {
        n = 1;
        if (b->map[i].page == VHDX_DIRTY_ONES) {
            VHDXDirtyPart part = vhdx_dirty_part(s->params.disk_size,
                                                 b->granularity, i);

            if (bitmap) {
                bdrv_dirty_bitmap_deserialize_ones(bitmap, part.offset,
                                                   part.bytes, false);
            }
        } else if (b->map[i].page != VHDX_DIRTY_ZEROS) {
            n = run_length(b, i);
            ret = run_read(bs, b, i, n, buf, bitmap, errp);
            if (ret < 0) {
                return ret;
            }
        }
    }
    return 0;
}

/*
 * Let the node have @b with that @granularity, which is its own if it has
 * @usable bits.  Returns 0 or -errno where the bits can't be had.
 */
static int coroutine_fn GRAPH_RDLOCK
bitmap_create(BlockDriverState *bs, VHDXDirtyBitmap *b, unsigned granularity,
              bool usable, Error **errp)
{
    bool writable = !bdrv_is_read_only(bs);
    BdrvDirtyBitmap *bitmap;
    int ret = 0;

    bitmap = bdrv_create_dirty_bitmap(bs, 1U << granularity, b->name, errp);
    if (!bitmap) {
        return -EINVAL;
    }
    bdrv_dirty_bitmap_set_persistence(bitmap, true);
    if (!b->enabled) {
        bdrv_disable_dirty_bitmap(bitmap);
    }
    if (usable) {
        ret = vhdx_dirty_map_read(bs, b, errp) ?:
              vhdx_dirty_bits_read(bs, b, bitmap, errp);
        /* QEMU counts no bits of a disk without sectors. */
        if (bdrv_dirty_bitmap_size(bitmap)) {
            bdrv_dirty_bitmap_deserialize_finish(bitmap);
        }
    }
    if (!usable || ret < 0) {
        bdrv_dirty_bitmap_set_inconsistent(bitmap);
    }
    bdrv_dirty_bitmap_set_readonly(bitmap, !writable);
    return ret;
}

/* Let the node have all bitmaps of the file that it has not. */
static void coroutine_fn GRAPH_RDLOCK bitmaps_create(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    bool current = vhdx_dirty_is_current(s);
    uint64_t left = VHDX_DIRTY_MAX_ALL_BITS;

    for (guint i = 0; i < s->dirty->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(s->dirty->list, i);
        uint64_t bytes = vhdx_dirty_bits_bytes(s->params.disk_size,
                                               b->granularity);
        unsigned granularity = b->granularity;
        bool usable = current && !b->inconsistent;
        Error *err = NULL;

        if (bdrv_find_dirty_bitmap(bs, b->name)) {
            continue;
        }
        if (bytes > MIN(left, VHDX_DIRTY_MAX_BITS)) {
            error_setg(&err, "it takes %" PRIu64 " bytes of memory, and %"
                       PRIu64 " are left of the %" PRIu64 " that bitmaps may "
                       "take", bytes, left, (uint64_t)VHDX_DIRTY_MAX_ALL_BITS);
            /* It can be removed, and takes next to nothing. */
            granularity = VHDX_DIRTY_MAX_GRANULARITY;
            usable = false;
        } else {
            left -= bytes;
        }
        (void)bitmap_create(bs, b, granularity, usable, err ? NULL : &err);
        if (err) {
            warn_reportf_err(err, "VHDX image '%s': bitmap '%s' can't be "
                             "used: ", bs->filename, b->name);
        }
    }
}

void coroutine_fn vhdx_dirty_load(BlockDriverState *bs, bool bits)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXDirtyBitmaps *d = g_new0(VHDXDirtyBitmaps, 1);
    Error *err = NULL;
    int ret;

    assert(!s->dirty);
    d->list = vhdx_dirty_list_new();
    ret = head_read(bs, d, &err);
    if (ret == 0) {
        dirty_bitmaps_free(d);
        return;
    }
    if (ret > 0 && d->head.count) {
        ret = directory_read(bs, d, &err);
    }
    if (ret < 0) {
        d->why = ret;
        d->error = g_strdup(error_get_pretty(err));
        warn_reportf_err(err, "VHDX image '%s': its dirty bitmaps can't be "
                         "used: ", bs->filename);
    }
    WITH_VHDX_LOCK_GUARD(s) {
        s->dirty = d;
        s->items_limit = d->page ? d->page * VHDX_PAGE_SIZE : s->items_end;
    }
    trace_vhdx_dirty_load(s, d->list->len, vhdx_dirty_is_current(s));
    if (bits) {
        bitmaps_create(bs);
    }
}
