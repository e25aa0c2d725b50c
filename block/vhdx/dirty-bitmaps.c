/*
 * VHDX: persistent dirty bitmaps
 *
 * QEMU keeps dirty bitmaps in memory.  The persistent ones are read when the
 * image is opened or activated, and stored when it is closed, gets read-only or
 * is handed to another process.  docs/interop/vhdx-dirty-bitmaps.rst specifies
 * what is read in dirty-load.c and stored in dirty-store.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/call.h"
#include "block/vhdx/dirty-bitmaps.h"
#include "block/vhdx/dirty-load.h"
#include "block/vhdx/dirty-store.h"
#include "block/vhdx/lock.h"

bool vhdx_supports_persistent_dirty_bitmap(BlockDriverState *bs)
{
    return true;
}

/* -- Limits -- */

/* What the bitmaps of an image take */
typedef struct Use {
    uint32_t count;
    uint64_t directory;             /* bytes */
    uint64_t maps;                  /* pages */
    uint64_t bits;                  /* bytes */
} Use;

/* Add a bitmap with granules of 2^@granularity bytes. */
static void use_add(Use *use, const char *name, uint64_t disk_size,
                    unsigned granularity)
{
    uint64_t entries = vhdx_dirty_map_count(disk_size, granularity);

    use->count++;
    use->directory += vhdx_dirty_entry_bytes(strlen(name));
    use->maps += vhdx_dirty_pages(entries * VHDX_DIRTY_MAP_SIZE);
    use->bits += vhdx_dirty_bits_bytes(disk_size, granularity);
}

static Use use_count(BlockDriverState *bs)
{
    BdrvDirtyBitmap *bitmap;
    Use use = { 0 };

    FOR_EACH_DIRTY_BITMAP(bs, bitmap) {
        if (bdrv_dirty_bitmap_get_persistence(bitmap)) {
            use_add(&use, bdrv_dirty_bitmap_name(bitmap),
                    bdrv_dirty_bitmap_size(bitmap),
                    ctz32(bdrv_dirty_bitmap_granularity(bitmap)));
        }
    }
    return use;
}

/* Whether maps and bits of @use, and of one bitmap more, can be kept. */
static bool use_fits(BDRVVHDXState *s, Use use, const char *name,
                     unsigned granularity)
{
    uint64_t bits = vhdx_dirty_bits_bytes(s->params.disk_size, granularity);
    uint64_t pages;

    use_add(&use, name, s->params.disk_size, granularity);
    /* The head, and two directories: the stable one and the next */
    pages = vhdx_dirty_first_page(s) + 1 +
            2 * vhdx_dirty_pages(use.directory) + use.maps;
    return bits <= VHDX_DIRTY_MAX_BITS && use.bits <= VHDX_DIRTY_MAX_ALL_BITS &&
           pages * VHDX_PAGE_SIZE <= VHDX_METADATA_MAX_LENGTH;
}

/* Whether the image can have another bitmap. */
static bool check_new(BlockDriverState *bs, const char *name,
                      unsigned granularity, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    Use use = use_count(bs);
    unsigned fits = granularity;

    if (bdrv_is_read_only(bs)) {
        error_setg(errp, "The image is read-only");
        return false;
    }
    if (s->dirty && s->dirty->error) {
        error_setg(errp, "It has bitmaps that can't be used: %s",
                   s->dirty->error);
        return false;
    }
    if (strlen(name) > VHDX_DIRTY_MAX_NAME) {
        error_setg(errp, "Name is %zu bytes long, and %d are allowed",
                   strlen(name), VHDX_DIRTY_MAX_NAME);
        return false;
    }
    if (!g_utf8_validate(name, -1, NULL)) {
        error_setg(errp, "Name is not UTF-8");
        return false;
    }
    if (granularity < VHDX_DIRTY_MIN_GRANULARITY ||
        granularity > VHDX_DIRTY_MAX_GRANULARITY) {
        error_setg(errp, "Granularity of %" PRIu64 " bytes is not from %" PRIu64
                   " to %" PRIu64, (uint64_t)1 << granularity,
                   (uint64_t)1 << VHDX_DIRTY_MIN_GRANULARITY,
                   (uint64_t)1 << VHDX_DIRTY_MAX_GRANULARITY);
        return false;
    }
    if (use.count >= VHDX_DIRTY_MAX_COUNT ||
        use.directory + vhdx_dirty_entry_bytes(strlen(name)) >
        VHDX_DIRTY_MAX_DIRECTORY) {
        error_setg(errp, "There are %" PRIu32 " persistent bitmaps already, "
                   "whose names take %" PRIu64 " bytes; at most %d and %" PRIu64
                   " are allowed", use.count, use.directory,
                   VHDX_DIRTY_MAX_COUNT, (uint64_t)VHDX_DIRTY_MAX_DIRECTORY);
        return false;
    }
    while (fits < VHDX_DIRTY_MAX_GRANULARITY &&
           !use_fits(s, use, name, fits)) {
        fits++;
    }
    if (!use_fits(s, use, name, fits)) {
        error_setg(errp, "There is no space for it: items take %" PRIu64
                   " of %" PRIu64 " bytes of the metadata region, and other "
                   "bitmaps %" PRIu64 " of %" PRIu64 " bytes of memory",
                   (uint64_t)vhdx_dirty_first_page(s) * VHDX_PAGE_SIZE,
                   (uint64_t)VHDX_METADATA_MAX_LENGTH, use.bits,
                   (uint64_t)VHDX_DIRTY_MAX_ALL_BITS);
        return false;
    }
    if (fits != granularity) {
        error_setg(errp, "With a granularity of %" PRIu64 " bytes the bitmaps "
                   "would be too large; one of %" PRIu64 " bytes fits",
                   (uint64_t)1 << granularity, (uint64_t)1 << fits);
        return false;
    }
    return true;
}

bool coroutine_fn
vhdx_co_can_store_new_dirty_bitmap(BlockDriverState *bs, const char *name,
                                   uint32_t granularity, Error **errp)
{
    if (bdrv_find_dirty_bitmap(bs, name)) {
        error_setg(errp, "Bitmap already exists: %s", name);
        return false;
    }
    if (!check_new(bs, name, ctz32(granularity), errp)) {
        error_prepend(errp, "Can't make bitmap '%s' persistent in '%s': ", name,
                      bdrv_get_device_or_node_name(bs));
        return false;
    }
    return true;
}

uint64_t vhdx_dirty_measure(BlockDriverState *in_bs)
{
    Use use = use_count(in_bs);
    uint64_t pages;

    if (!use.count) {
        return 0;
    }
    /* Each may have part of a page; and items take the first MiB. */
    pages = 1 + 2 * vhdx_dirty_pages(use.directory) + use.maps + use.count +
            use.bits / VHDX_PAGE_SIZE;
    return MIN(MiB + ROUND_UP(pages * VHDX_PAGE_SIZE, MiB),
               VHDX_METADATA_MAX_LENGTH);
}

/* -- Changes -- */

int coroutine_fn
vhdx_co_remove_persistent_dirty_bitmap(BlockDriverState *bs, const char *name,
                                       Error **errp)
{
    return vhdx_dirty_remove(bs, name, errp);
}

/* [dirty-changing] */
static int coroutine_fn GRAPH_RDLOCK
changing_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    int ret = vhdx_dirty_begin(bs);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not begin to write to '%s'",
                         bs->filename);
    }
    return ret;
}

int coroutine_mixed_fn
vhdx_dirty_bitmap_changing(BlockDriverState *bs, Error **errp)
{
    return vhdx_call(bs, changing_entry, NULL, errp);
}

int vhdx_dirty_check_resize(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;

    for (guint i = 0; s->dirty && i < s->dirty->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(s->dirty->list, i);
        BdrvDirtyBitmap *bitmap = bdrv_find_dirty_bitmap(bs, b->name);

        if (!bitmap) {
            error_setg(errp, "Bitmap '%s' has not been loaded, so the disk "
                       "can't be resized", b->name);
            return -ENOTSUP;
        }
        if (bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_DEFAULT, errp) < 0) {
            return -ENOTSUP;
        }
    }
    return 0;
}

int vhdx_dirty_check_unused(BlockDriverState *bs, Error **errp)
{
    BdrvDirtyBitmap *bitmap;

    FOR_EACH_DIRTY_BITMAP(bs, bitmap) {
        if (bdrv_dirty_bitmap_get_persistence(bitmap) &&
            bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_BUSY, errp) < 0) {
            error_prepend(errp, "Could not hand over VHDX image '%s': ",
                          bs->filename);
            return -EBUSY;
        }
    }
    return 0;
}

void vhdx_dirty_doubt(BlockDriverState *bs)
{
    BdrvDirtyBitmap *bitmap;

    FOR_EACH_DIRTY_BITMAP(bs, bitmap) {
        if (bdrv_dirty_bitmap_get_persistence(bitmap) &&
            !bdrv_dirty_bitmap_inconsistent(bitmap)) {
            bdrv_dirty_bitmap_set_inconsistent(bitmap);
        }
    }
}

/* -- In memory alone -- */

Qcow2BitmapInfoList *vhdx_dirty_info(BDRVVHDXState *s)
{
    Qcow2BitmapInfoList *infos = NULL, **tail = &infos;
    bool current;

    VHDX_LOCK_GUARD(s);
    current = vhdx_dirty_is_current(s);
    for (guint i = 0; s->dirty && i < s->dirty->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(s->dirty->list, i);
        Qcow2BitmapInfo *info = g_new0(Qcow2BitmapInfo, 1);

        info->name = g_strdup(b->name);
        info->granularity = 1U << b->granularity;
        if (b->enabled) {
            QAPI_LIST_PREPEND(info->flags, QCOW2_BITMAP_INFO_FLAGS_AUTO);
        }
        if (!current || b->inconsistent) {
            QAPI_LIST_PREPEND(info->flags, QCOW2_BITMAP_INFO_FLAGS_IN_USE);
        }
        QAPI_LIST_APPEND(tail, info);
    }
    return infos;
}

void vhdx_dirty_set_readonly(BlockDriverState *bs, bool readonly)
{
    BdrvDirtyBitmap *bitmap;

    FOR_EACH_DIRTY_BITMAP(bs, bitmap) {
        if (bdrv_dirty_bitmap_get_persistence(bitmap)) {
            bdrv_dirty_bitmap_set_readonly(bitmap, readonly);
        }
    }
}

int coroutine_mixed_fn
vhdx_dirty_got_writable(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;

    vhdx_dirty_set_readonly(bs, false);
    for (guint i = 0; s->dirty && i < s->dirty->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(s->dirty->list, i);
        BdrvDirtyBitmap *bitmap = bdrv_find_dirty_bitmap(bs, b->name);

        if (!b->enabled && bitmap && bdrv_dirty_bitmap_enabled(bitmap) &&
            bdrv_dirty_bitmap_get_persistence(bitmap)) {
            return vhdx_dirty_bitmap_changing(bs, errp);
        }
    }
    return 0;
}

void vhdx_dirty_release(BlockDriverState *bs)
{
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_first(bs), *next;

    for (; bitmap; bitmap = next) {
        next = bdrv_dirty_bitmap_next(bitmap);
        if (bdrv_dirty_bitmap_get_persistence(bitmap)) {
            bdrv_release_dirty_bitmap(bitmap);
        }
    }
}
