/*
 * VHDX: storing dirty bitmaps
 *
 * The first change of an image has given it a new FileWriteGuid, so nothing
 * that the file has of bitmaps counts when they are stored, and it may be
 * written over, all but the directory, which has the names.  Maps and pages of
 * bits are written, then the directory; all of it and the data that they tell
 * of is flushed; and then a log entry makes the head name them, with the GUIDs
 * of now.  A power cut leaves bitmaps that do not count, or all.
 *
 * Where the region is too short a longer one is made elsewhere, with all of
 * that in it, and the entry is the one that makes the region tables name it.
 *
 * QEMU sets bits after the driver has done with a write.  So bitmaps are stored
 * only while no request is under way, and the next change must have GUIDs of
 * its own: the log is closed next.  If it can't be, the head is taken back.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/cache-write.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/dirty-collect.h"
#include "block/vhdx/dirty-store.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "block/vhdx/region.h"
#include "block/vhdx/request.h"
#include "trace.h"

/* -- Writing -- */

/* Write @bytes bytes at @buf to page @page of the region at @base. */
static int coroutine_fn GRAPH_RDLOCK
pages_write(VHDXDirtyStore *st, uint64_t base, uint32_t page, uint64_t bytes,
            const uint8_t *buf)
{
    return vhdx_file_pwrite(st->bs, base + (uint64_t)page * VHDX_PAGE_SIZE,
                            bytes, buf);
}

/* Write the pages of bits of @b, which are those of @bitmap. */
static int coroutine_fn GRAPH_RDLOCK
bits_write(VHDXDirtyStore *st, uint64_t base, VHDXDirtyBitmap *b,
           BdrvDirtyBitmap *bitmap)
{
    uint64_t size = bdrv_dirty_bitmap_size(bitmap);
    uint32_t first = 0, n = 0;
    int ret = 0;

    for (uint32_t i = 0; i < b->map_count && ret == 0; i++) {
        VHDXDirtyPart part = vhdx_dirty_part(size, b->granularity, i);
        uint8_t *buf;

        if (b->map[i].page < VHDX_DIRTY_UNPLACED) {
            continue;
        }
        if (n && (n == VHDX_DIRTY_RUN_PAGES || b->map[i].page != first + n)) {
            ret = pages_write(st, base, first, n * VHDX_PAGE_SIZE, st->buf);
            n = 0;
        }
        first = n ? first : b->map[i].page;
        buf = st->buf + n++ * VHDX_PAGE_SIZE;
        vhdx_dirty_part_read(bitmap, &part, buf);
        b->map[i].crc = vhdx_dirty_crc(buf, VHDX_PAGE_SIZE);
    }
    if (n && ret == 0) {
        ret = pages_write(st, base, first, n * VHDX_PAGE_SIZE, st->buf);
    }
    return ret;
}

/* Write the @bytes bytes of a map or directory at @buf to whole pages. */
static int coroutine_fn GRAPH_RDLOCK
table_write(VHDXDirtyStore *st, uint64_t base, uint32_t page, uint8_t *buf,
            uint64_t bytes, uint32_t *crc)
{
    uint64_t all = ROUND_UP(bytes, VHDX_PAGE_SIZE);

    memset(buf + bytes, 0, all - bytes);
    *crc = vhdx_dirty_crc(buf, bytes);
    return pages_write(st, base, page, all, buf);
}

/* A buffer for a table of @bytes bytes, freed by qemu_vfree() */
static uint8_t *table_new(VHDXDirtyStore *st, uint64_t bytes)
{
    return qemu_blockalign(st->bs->file->bs, ROUND_UP(bytes, VHDX_PAGE_SIZE));
}

static int coroutine_fn GRAPH_RDLOCK
directory_write(VHDXDirtyStore *st, uint64_t base)
{
    uint64_t bytes = st->head.directory_bytes;
    uint8_t *buf = table_new(st, bytes);
    int ret;

    vhdx_dirty_directory_encode(st->list, buf);
    ret = table_write(st, base, st->head.directory_page, buf, bytes,
                      &st->head.directory_crc);
    qemu_vfree(buf);
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
map_write(VHDXDirtyStore *st, uint64_t base, VHDXDirtyBitmap *b)
{
    uint64_t bytes = (uint64_t)b->map_count * VHDX_DIRTY_MAP_SIZE;
    uint8_t *buf = table_new(st, bytes);
    int ret;

    vhdx_dirty_map_encode(b->map, b->map_count, buf);
    ret = table_write(st, base, b->map_page, buf, bytes, &b->map_crc);
    qemu_vfree(buf);
    return ret;
}

/* Write all but the head. */
static int coroutine_fn GRAPH_RDLOCK
store_write(VHDXDirtyStore *st, uint64_t base)
{
    for (guint i = 0; i < st->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(st->list, i);
        int ret;

        if (!b->map_count) {
            continue;
        }
        ret = bits_write(st, base, b, g_ptr_array_index(st->from, i)) ?:
              map_write(st, base, b);
        if (ret < 0) {
            return ret;
        }
    }
    return directory_write(st, base);
}

/* -- The head -- */

/* Complete the head: the content of now is what the bitmaps belong to. */
static void head_fill(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;

    VHDX_LOCK_GUARD(s);
    st->head.file_write_guid = s->header.file_write_guid;
    st->head.data_write_guid = s->header.data_write_guid;
    st->head.disk_size = s->params.disk_size;
    st->head.count = st->list->len;
    st->head.stores = s->dirty ? s->dirty->head.stores + 1 : 1;
}

/*
 * Let page @page of the metadata region be @buf, and make that stable, and
 * before it all that has been written.  [dirty-barrier]
 */
static int coroutine_fn GRAPH_RDLOCK
head_commit(BlockDriverState *bs, uint32_t page, const uint8_t *buf)
{
    BDRVVHDXState *s = bs->opaque;
    /* What is dirty may take several entries, and the head be in the first. */
    int ret = vhdx_commit(bs);

    if (ret < 0) {
        return ret;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_change_order(s);
    }
    ret = vhdx_cache_write(bs, s->metadata.offset +
                           (uint64_t)page * VHDX_PAGE_SIZE, VHDX_PAGE_SIZE,
                           buf);
    return ret ?: vhdx_commit(bs);
}

/*
 * A head, or a region's new place with one, that could not be made stable may
 * be so all the same.  Let the file have what it had, with a head that does not
 * count; if it had none, @page gets nothing.  Where even that fails nothing may
 * be changed any more. [dirty-taken-back]
 */
static void coroutine_fn GRAPH_RDLOCK
head_restore(BlockDriverState *bs, uint32_t page)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc0(VHDX_PAGE_SIZE);
    int ret;

    if (s->dirty) {
        VHDXDirtyHead head = s->dirty->head;

        head.file_write_guid = head.data_write_guid = vhdx_guid_nil;
        vhdx_dirty_head_encode(&head, buf);
        page = s->dirty->page;
        WITH_VHDX_LOCK_GUARD(s) {
            s->dirty->head = head;
        }
    }
    s->dirty_unsure = page;
    if (vhdx_change_is_broken(s)) {
        return;
    }
    ret = page < s->metadata.length / VHDX_PAGE_SIZE ?
          head_commit(bs, page, buf) : vhdx_commit(bs);
    if (ret == 0) {
        s->dirty_unsure = 0;
    } else {
        qemu_co_mutex_lock(&s->commit_lock);
        vhdx_change_latch(bs, "its dirty bitmaps could not be taken back");
        qemu_co_mutex_unlock(&s->commit_lock);
    }
}

/* The file has what @st tells. */
static void store_done(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;
    VHDXDirtyBitmaps *d = g_new0(VHDXDirtyBitmaps, 1);

    d->page = st->page;
    d->head = st->head;
    d->list = g_ptr_array_ref(st->list);
    VHDX_LOCK_GUARD(s);
    vhdx_dirty_free(s);
    s->dirty = d;
    s->items_limit = st->page * VHDX_PAGE_SIZE;
    s->dirty_unsure = 0;
}

/* -- Storing -- */

/* Store it in the region that there is, for which there are places. */
static int coroutine_fn GRAPH_RDLOCK store_in_place(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;
    g_autofree uint8_t *buf = g_malloc(VHDX_PAGE_SIZE);
    int ret = store_write(st, s->metadata.offset);

    if (ret < 0) {
        return ret;
    }
    head_fill(st);
    vhdx_dirty_head_encode(&st->head, buf);
    return head_commit(st->bs, st->page, buf);
}

/* Fill the region's new place at @base. */
static int coroutine_fn GRAPH_RDLOCK
fill_new(BlockDriverState *bs, uint64_t base, void *opaque)
{
    VHDXDirtyStore *st = opaque;
    uint8_t *buf;
    int ret = store_write(st, base);

    if (ret < 0) {
        return ret;
    }
    head_fill(st);
    buf = table_new(st, VHDX_PAGE_SIZE);
    vhdx_dirty_head_encode(&st->head, buf);
    ret = pages_write(st, base, st->page, VHDX_PAGE_SIZE, buf);
    qemu_vfree(buf);
    return ret;
}

/* Store it in a region that is long enough. */
static int coroutine_fn GRAPH_RDLOCK store_grow(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;
    VHDXDirtyPlaces places = { 0 };
    uint32_t most = VHDX_METADATA_MAX_LENGTH / VHDX_PAGE_SIZE;
    uint32_t directory =
        vhdx_dirty_pages(vhdx_dirty_directory_bytes(st->list));
    uint64_t pages, length;

    st->page = vhdx_dirty_first_page(s);
    /* The head, and the next directory is to have room beside this one. */
    pages = st->page + 1 + directory;
    if (pages > most || !vhdx_dirty_store_round_up(st, most - pages)) {
        return -ENOSPC;
    }
    pages += vhdx_dirty_store_pages(st);
    length = ROUND_UP(pages * VHDX_PAGE_SIZE, MiB);
    places.next = st->page + 1;
    places.end = length / VHDX_PAGE_SIZE;
    if (!vhdx_dirty_store_place(st, &places)) {
        return -ENOSPC;
    }
    return vhdx_region_move_metadata(st->bs, length, st->page * VHDX_PAGE_SIZE,
                                     fill_new, st);
}

/*
 * Give it places in the region that there is, if it has them; the directory
 * stays until the head names another. [dirty-names]
 */
static bool store_fits(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;
    VHDXDirtyPlaces places = { .end = vhdx_dirty_region_pages(s) };

    st->page = s->dirty ? s->dirty->page : vhdx_dirty_first_page(s);
    places.next = st->page + 1;
    if (s->dirty) {
        places.keep = s->dirty->head.directory_page;
        places.keep_end = places.keep +
                          vhdx_dirty_pages(s->dirty->head.directory_bytes);
    }
    return vhdx_dirty_store_place(st, &places);
}

/* As vhdx_dirty_begin(); the image is reserved, so that its log stays open. */
static int coroutine_fn GRAPH_RDLOCK dirty_begin_reserved(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_begin(bs, VHDX_METADATA);

    if (ret == 0 && s->dirty_unsure) {
        head_restore(bs, s->dirty_unsure);
        ret = s->dirty_unsure ? -EIO : 0;
    }
    return ret;
}

/* [dirty-taken-back] */
static int coroutine_fn GRAPH_RDLOCK store_all(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;
    int ret = dirty_begin_reserved(st->bs);

    if (ret < 0) {
        return ret;
    }
    ret = store_fits(st) ? store_in_place(st) : store_grow(st);
    if (vhdx_file_no_space(ret)) {
        head_restore(st->bs, st->page);
        /* Else a head may name what would be written over. [dirty-names] */
        if (!s->dirty_unsure) {
            (void)vhdx_dirty_store_round_up(st, 0);
            ret = store_fits(st) ? store_in_place(st) : -ENOSPC;
        }
    }
    if (ret < 0) {
        head_restore(st->bs, st->page);
    } else {
        store_done(st);
    }
    trace_vhdx_dirty_store(s, st->list->len, st->page, ret);
    return ret;
}

/*
 * Let the file have the persistent bitmaps of the node as they are, if it has
 * not.  The log is closed next: then they count.
 */
static void coroutine_fn GRAPH_RDLOCK store(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXDirtyStore st;
    int ret;

    if (bdrv_is_read_only(bs) || vhdx_change_is_broken(s)) {
        return;
    }
    vhdx_dirty_store_init(&st, bs);
    vhdx_dirty_store_collect(&st);
    if (s->dirty && s->dirty->error) {
        /* A migration brings bitmaps without asking. */
        if (st.list->len) {
            error_setg(errp, "The image has bitmaps that can't be used: %s",
                       s->dirty->error);
        }
    } else if (!st.list->len || vhdx_dirty_store_is_same(&st)) {
        if (s->dirty_unsure) {
            /* What the file may have is not what there is. */
            (void)vhdx_dirty_begin(bs);
        }
    } else if (vhdx_dirty_store_check(&st, errp)) {
        vhdx_request_freeze(s);
        ret = store_all(&st);
        vhdx_request_thaw(s);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not write them");
        }
    }
    vhdx_dirty_store_free(&st);
}

/* Changes may follow that the file's bitmaps do not know. */
static void coroutine_fn GRAPH_RDLOCK take_back(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;

    if (vhdx_change_log_is_open(s) && vhdx_dirty_is_current(s)) {
        head_restore(bs, 0);
    }
}

int coroutine_fn vhdx_dirty_begin(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_begin(bs, VHDX_METADATA);

    if (ret == 0 && s->dirty_unsure) {
        vhdx_request_reserve(s);
        ret = dirty_begin_reserved(bs);
        vhdx_request_unreserve(s);
    }
    return ret;
}

/* [dirty-taken-back] */
int coroutine_fn vhdx_dirty_settle(BlockDriverState *bs, Error **lost)
{
    int ret;

    store(bs, lost);
    ret = vhdx_log_close(bs);
    if (ret < 0) {
        take_back(bs);
    }
    return ret;
}

/* -- Removing -- */

/*
 * Let the file have the names that @st tells, and a head for them that counts
 * for nothing until the bitmaps are stored. [dirty-names]
 */
static int coroutine_fn GRAPH_RDLOCK names_store(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;
    g_autofree uint8_t *buf = g_malloc0(VHDX_PAGE_SIZE);
    int ret = 0;

    st->head = s->dirty->head;
    st->head.file_write_guid = st->head.data_write_guid = vhdx_guid_nil;
    st->head.count = st->list->len;
    if (st->list->len) {
        if (!store_fits(st)) {
            return -ENOSPC;
        }
        ret = directory_write(st, s->metadata.offset);
    }
    vhdx_dirty_head_encode(&st->head, buf);
    return ret < 0 ? ret : head_commit(st->bs, st->page, buf);
}

static int coroutine_fn GRAPH_RDLOCK
remove_frozen(VHDXDirtyStore *st)
{
    BDRVVHDXState *s = st->bs->opaque;
    int ret = dirty_begin_reserved(st->bs);

    if (ret < 0) {
        return ret;
    }
    ret = names_store(st);
    if (ret < 0) {
        head_restore(st->bs, st->page);
    } else {
        store_done(st);
    }
    trace_vhdx_dirty_remove(s, st->list->len, ret);
    return ret;
}

int coroutine_fn vhdx_dirty_remove(BlockDriverState *bs, const char *name,
                                   Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXDirtyStore st;
    int ret;

    if (!s->dirty || !vhdx_dirty_list_find(s->dirty->list, name)) {
        /* The file may have it all the same, after a failure. */
        ret = s->dirty_unsure ? vhdx_dirty_begin(bs) : 0;
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not remove bitmap '%s'", name);
        }
        return ret;
    }
    vhdx_dirty_store_init(&st, bs);
    st.page = s->dirty->page;
    for (guint i = 0; i < s->dirty->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(s->dirty->list, i);

        if (strcmp(b->name, name)) {
            vhdx_dirty_store_add(&st, b, NULL);
        }
    }
    vhdx_request_freeze(s);
    ret = remove_frozen(&st);
    vhdx_request_thaw(s);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not remove bitmap '%s'", name);
    }
    vhdx_dirty_store_free(&st);
    return ret;
}

int coroutine_fn vhdx_dirty_drop(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc0(VHDX_PAGE_SIZE);
    int ret;

    assert(s->dirty->page);
    ret = vhdx_begin(bs, VHDX_METADATA) ?:
          head_commit(bs, s->dirty->page, buf);
    if (ret == 0) {
        VHDX_LOCK_GUARD(s);
        vhdx_dirty_free(s);
        s->items_limit = s->metadata.length;
    }
    return ret;
}

/* [dirty-names] */
int coroutine_fn vhdx_dirty_shorten_region(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint32_t length;
    int ret;

    if (!s->dirty || s->dirty->error || s->dirty->list->len) {
        return 0;
    }
    length = s->dirty->page * VHDX_PAGE_SIZE;
    ret = vhdx_region_shorten_metadata(bs, length);
    if (ret == 0) {
        VHDX_LOCK_GUARD(s);
        vhdx_dirty_free(s);
        s->items_limit = length;
    }
    return ret ?: vhdx_commit(bs);
}
