/*
 * VHDX: check of dirty bitmaps
 *
 * What is wrong with them is no matter of the disk's data: the next backup has
 * to be a full one.  A bitmap that is damaged becomes inconsistent with -r all,
 * and all are dropped where not even their names can be read.  No other is ever
 * taken out: that is for who made it, by "qemu-img bitmap --remove".  What the
 * node can't read may be whole, and is left as it is.
 *
 * What a repair changes in the disk no bitmap tells of.  So none is to be used
 * for a backup after it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/change.h"
#include "block/vhdx/check-dirty.h"
#include "block/vhdx/dirty-bitmaps.h"
#include "block/vhdx/dirty-load.h"
#include "block/vhdx/dirty-store.h"

/* Nothing is known but that there are some. */
static int coroutine_fn GRAPH_RDLOCK
unread_check(BlockDriverState *bs, VHDXCheck *check)
{
    VHDXDirtyBitmaps *d = ((BDRVVHDXState *)bs->opaque)->dirty;
    int ret;

    if (d->why == -ENOTSUP) {
        vhdx_check_note(check, "Dirty bitmaps: %s", d->error);
        return 0;
    }
    if (d->why != -EINVAL) {
        vhdx_check_failed(check, "Dirty bitmaps: %s", d->error);
        return 0;
    }
    ret = vhdx_check_mend(bs, check, "Dirty bitmaps are damaged, the data of "
                          "the disk is not: %s", d->error);
    return ret > 0 ? vhdx_dirty_drop(bs) : ret;
}

/* Whether the file has all bits of @b.  Returns 0 or -errno. */
static int coroutine_fn GRAPH_RDLOCK
bitmap_read(BlockDriverState *bs, const VHDXDirtyBitmap *b, Error **errp)
{
    VHDXDirtyBitmap *copy = vhdx_dirty_bitmap_new(b->name, b->granularity);
    int ret;

    copy->map_page = b->map_page;
    copy->map_crc = b->map_crc;
    copy->map_count = b->map_count;
    ret = vhdx_dirty_map_read(bs, copy, errp) ?:
          vhdx_dirty_bits_read(bs, copy, NULL, errp);
    vhdx_dirty_bitmap_free(copy);
    return ret;
}

/*
 * Check @b, which counts.  A damaged one is inconsistent in memory, and stored
 * like that when the check ends.  Returns 0 or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
bitmap_check(BlockDriverState *bs, VHDXCheck *check, const VHDXDirtyBitmap *b)
{
    Error *err = NULL;
    int ret = bitmap_read(bs, b, &err);

    if (ret == 0) {
        return 0;
    }
    if (ret != -EINVAL) {
        vhdx_check_failed(check, "Dirty bitmap '%s': %s", b->name,
                          error_get_pretty(err));
        ret = 0;
    } else {
        ret = vhdx_check_mend(bs, check, "Dirty bitmap '%s' is damaged, the "
                              "data of the disk is not: %s", b->name,
                              error_get_pretty(err));
    }
    error_free(err);
    return MIN(ret, 0);
}

int coroutine_fn vhdx_check_dirty(BlockDriverState *bs, VHDXCheck *check)
{
    BDRVVHDXState *s = bs->opaque;
    bool current = vhdx_dirty_is_current(s);

    if (check->entries_mended) {
        vhdx_dirty_doubt(bs);
    }
    if (!s->dirty) {
        return 0;
    }
    if (s->dirty->error) {
        return unread_check(bs, check);
    }
    for (guint i = 0; i < s->dirty->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(s->dirty->list, i);

        int ret;

        if (current && !b->inconsistent) {
            ret = bitmap_check(bs, check, b);
            if (ret < 0) {
                return ret;
            }
        } else if (!vhdx_change_log_is_open(s)) {
            vhdx_check_note(check, "Dirty bitmap '%s' does not count: %s",
                            b->name, current ? "it is inconsistent" : "the "
                            "image has been changed since it was stored");
        }
    }
    return 0;
}
