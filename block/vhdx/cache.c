/*
 * VHDX: metadata pages in memory
 *
 * The BAT is read 4 KiB at a time, when a request first needs a page of it;
 * more at once where pages are asked for in order.  Pages are kept in a hash
 * table by file offset and dropped, least recently used first, when memory has
 * reached the limit.  A page with changes stays until they are in place in the
 * file:
 *
 *            vhdx_cache_modify()     commit           apply
 *     clean ------------------> dirty -----> logged --------> clean
 *
 * A page may change again while a commit writes it to the log, and before it is
 * in place.  So it has up to three versions: @data, which requests see,
 * @committing and @logged, which is kept until a flush has made it stable in
 * place.  Those that are alike share a buffer; a change gives @data one of its
 * own if another version has the same.  commit.c does commit and ring.c apply.
 *
 * A buffer is a piece of memory that cache-buffer.c gives.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/cache-buffer.h"
#include "block/vhdx/change.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/replay.h"
#include "trace.h"

/* Pages that are read at once where the last miss was just before them. */
#define READ_AHEAD      64

/*
 * ... and where an image has a parent: what one request has to know of each in
 * a chain is scattered, and 64 KiB are read as fast as 4.
 */
#define CHILD_AHEAD     16

/*
 * So many clean pages stay, whatever the limit is: those that a request needs
 * at once.  These are the page of BAT with its block's entry, that with the
 * entry of the block's sector bitmap, and up to 16 of the bits: 64 KiB for a
 * block of 256 MiB.
 */
#define KEPT_PAGES      18

struct VHDXCache {
    GHashTable *pages;              /* by offset */
    QTAILQ_HEAD(, VHDXPage) lru;    /* all pages, oldest first */
    QTAILQ_HEAD(, VHDXPage) dirty_list;
    QTAILQ_HEAD(, VHDXPage) logged_list;    /* @logged, and not @placed */
    QTAILQ_HEAD(, VHDXPage) placed_list;
    CoQueue loaded;                 /* waits for loading to end */
    unsigned dirty;                 /* number of dirty pages */
    unsigned logged;                /* ... and of those in logged_list */
    unsigned clean;                 /* ... of those that may be dropped */
    unsigned kept;                  /* ... and of those that stay anyway */
    unsigned limit;                 /* number of buffers to use at the most */
    VHDXBuffers *buffers;
    uint64_t next_miss;             /* offset behind what was read last */
    uint64_t applied;               /* counts pages written in place */
    uint64_t version;               /* counts changes in memory */
};

/* The version @data of @page is gone; its buffer is free if no other has it. */
static void buffer_put(VHDXCache *c, VHDXPage *page, uint8_t *data)
{
    if (data && data != page->data && data != page->committing &&
        data != page->logged) {
        vhdx_buffer_put(c->buffers, data);
    }
}

void vhdx_cache_init(BDRVVHDXState *s)
{
    VHDXCache *c = g_new0(VHDXCache, 1);

    s->cache = c;
    c->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL,
                                     g_free);
    c->buffers = vhdx_buffers_new();
    QTAILQ_INIT(&c->lru);
    QTAILQ_INIT(&c->dirty_list);
    QTAILQ_INIT(&c->logged_list);
    QTAILQ_INIT(&c->placed_list);
    qemu_co_queue_init(&c->loaded);
    c->limit = s->cache_size / VHDX_PAGE_SIZE;
    c->kept = KEPT_PAGES;
}

void vhdx_cache_free(BDRVVHDXState *s)
{
    VHDXCache *c = g_steal_pointer(&s->cache);

    g_hash_table_destroy(c->pages);
    vhdx_buffers_free(c->buffers);
    g_free(c);
}

/* Whether @page may be dropped: it is as it is in the file. */
static bool page_is_clean(const VHDXPage *page)
{
    return !page->loading && !page->dirty && !page->logged && !page->committing;
}

static VHDXPage *page_add(VHDXCache *c, uint64_t offset)
{
    VHDXPage *page = g_new0(VHDXPage, 1);

    page->offset = offset;
    page->data = vhdx_buffer_get(c->buffers);
    page->loading = true;
    g_hash_table_insert(c->pages, &page->offset, page);
    QTAILQ_INSERT_TAIL(&c->lru, page, next);
    return page;
}

/* The content of @page is there, or not to be had. */
static void page_loaded(VHDXCache *c, VHDXPage *page)
{
    page->loading = false;
    c->clean++;
}

static void page_remove(VHDXCache *c, VHDXPage *page)
{
    uint8_t *data = page->data;

    assert(!page->dirty && !page->committing && !page->logged);
    c->clean--;
    page->data = NULL;
    buffer_put(c, page, data);
    QTAILQ_REMOVE(&c->lru, page, next);
    g_hash_table_remove(c->pages, &page->offset);
}

/*
 * Drop pages until there is room for @count more, or only @kept clean ones are
 * left, those that were used last.  Those that can't go are taken for recently
 * used, so that they do not stand in the way the next time.
 *
 * So memory is bounded by the limit or, if that is more, by what pages with
 * changes take, @kept pages and those that are being read.
 */
static void cache_evict(VHDXCache *c, unsigned count, unsigned kept)
{
    unsigned pages = g_hash_table_size(c->pages);

    for (unsigned i = 0; i < pages && c->clean > kept; i++) {
        VHDXPage *page = QTAILQ_FIRST(&c->lru);

        if (vhdx_buffers_in_use(c->buffers) + count <= c->limit) {
            return;
        }
        if (page_is_clean(page)) {
            page_remove(c, page);
        } else {
            QTAILQ_REMOVE(&c->lru, page, next);
            QTAILQ_INSERT_TAIL(&c->lru, page, next);
        }
    }
}

void vhdx_cache_set_limit(BDRVVHDXState *s, uint64_t bytes)
{
    VHDXCache *c = s->cache;

    vhdx_assert_locked(s);
    c->limit = bytes / VHDX_PAGE_SIZE;
    if (vhdx_buffers_chunks(c->buffers) >
        DIV_ROUND_UP(c->limit, VHDX_CHUNK_BUFFERS)) {
        /* What is in use is scattered over all chunks, so drop all there is. */
        cache_evict(c, c->limit, 0);
        vhdx_buffers_shrink(c->buffers);
    }
}

unsigned vhdx_cache_limit(BDRVVHDXState *s)
{
    return s->cache->limit;
}

unsigned vhdx_cache_count_changed(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->cache->dirty + s->cache->logged;
}

unsigned vhdx_cache_count_dirty(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->cache->dirty;
}

unsigned vhdx_cache_count_logged(BDRVVHDXState *s)
{
    return s->cache->logged;
}

uint64_t vhdx_cache_count_applied(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->cache->applied;
}

void vhdx_cache_keep(BDRVVHDXState *s, int more)
{
    vhdx_assert_locked(s);
    s->cache->kept += more;
}

uint64_t vhdx_cache_version(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->cache->version;
}

unsigned vhdx_cache_count_buffers(BDRVVHDXState *s)
{
    return vhdx_buffers_in_use(s->cache->buffers);
}

unsigned vhdx_cache_count_chunks(BDRVVHDXState *s)
{
    return vhdx_buffers_chunks(s->cache->buffers);
}

VHDXPage *vhdx_cache_peek(BDRVVHDXState *s, uint64_t offset)
{
    VHDXPage *page = g_hash_table_lookup(s->cache->pages, &offset);

    vhdx_assert_locked(s);
    return page && !page->loading ? page : NULL;
}

/*
 * How many pages to read from @offset on: one, or more if the last miss was
 * just before or there is a parent, as far as @end, or the BAT, goes and none
 * of them is there already.
 */
static unsigned pages_to_read(BDRVVHDXState *s, uint64_t offset, uint64_t end)
{
    VHDXCache *c = s->cache;
    unsigned most = s->params.has_parent ? MIN(CHILD_AHEAD, c->limit / 64) : 1;
    unsigned count = 1;

    if (!end && offset < s->bat.offset) {
        return 1;
    }
    end = end ?: s->bat.offset + s->geo.bat_entries * VHDX_BAT_ENTRY_SIZE;
    if (offset == c->next_miss) {
        most = MIN(READ_AHEAD, c->limit / 4);
    }
    while (count < most && (offset += VHDX_PAGE_SIZE) < end &&
           !g_hash_table_contains(c->pages, &offset)) {
        count++;
    }
    return count;
}

/*
 * Read pages that are not there, the first of which is at @offset.  Returns 0,
 * 1 if it may be for others' sake that it can't be read, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
pages_load(BlockDriverState *bs, uint64_t offset, uint64_t end)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCache *c = s->cache;
    unsigned count = pages_to_read(s, offset, end);
    VHDXPage *pages[READ_AHEAD];
    QEMUIOVector qiov;
    int ret;

    c->next_miss = offset + count * VHDX_PAGE_SIZE;
    cache_evict(c, count, c->kept);
    qemu_iovec_init(&qiov, count);
    for (unsigned i = 0; i < count; i++) {
        pages[i] = page_add(c, offset + i * VHDX_PAGE_SIZE);
        qemu_iovec_add(&qiov, pages[i]->data, VHDX_PAGE_SIZE);
    }
    vhdx_unlock(s);
    BLKDBG_CO_EVENT(bs->file, BLKDBG_L2_LOAD);
    ret = vhdx_replay_readv(bs, offset, qiov.size, &qiov, 0);
    trace_vhdx_page_load(s, offset, count, ret);
    vhdx_lock(s);

    for (unsigned i = 0; i < count; i++) {
        page_loaded(c, pages[i]);
        if (ret < 0) {
            page_remove(c, pages[i]);
        }
    }
    qemu_co_queue_restart_all(&c->loaded);
    qemu_iovec_destroy(&qiov);
    return ret < 0 && count > 1 ? 1 : ret;
}

/*
 * Get a page that is not there, or not yet.  Out of the way of those that find
 * theirs.
 */
static int coroutine_fn GRAPH_RDLOCK __attribute__((noinline))
page_fetch(BlockDriverState *bs, uint64_t offset, uint64_t end, VHDXPage **page)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCache *c = s->cache;
    int ret;

    for (;;) {
        *page = g_hash_table_lookup(c->pages, &offset);
        if (!*page) {
            ret = pages_load(bs, offset, end);
            if (ret < 0) {
                return ret;
            }
            if (ret > 0) {
                /* By itself, then. */
                end = offset + 1;
            }
        } else if ((*page)->loading) {
            vhdx_wait(s, &c->loaded);
        } else {
            return 0;
        }
    }
}

/* @page is in use: others are to be dropped before it. */
static inline void page_used(VHDXCache *c, VHDXPage *page)
{
    if (QTAILQ_NEXT(page, next)) {
        QTAILQ_REMOVE(&c->lru, page, next);
        QTAILQ_INSERT_TAIL(&c->lru, page, next);
    }
}

VHDXPage *vhdx_cache_find(BDRVVHDXState *s, uint64_t offset)
{
    VHDXPage *page = vhdx_cache_peek(s, offset);

    if (page) {
        page_used(s->cache, page);
    }
    return page;
}

int coroutine_fn vhdx_cache_get_ahead(BlockDriverState *bs, uint64_t offset,
                                      uint64_t end, VHDXPage **page)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCache *c = s->cache;
    VHDXPage *p;
    int ret;

    vhdx_assert_locked(s);
    p = g_hash_table_lookup(c->pages, &offset);
    if (unlikely(!p || p->loading)) {
        ret = page_fetch(bs, offset, end, &p);
        if (ret < 0) {
            return ret;
        }
    }
    page_used(c, p);
    *page = p;
    return 0;
}

int coroutine_fn vhdx_cache_get(BlockDriverState *bs, uint64_t offset,
                                VHDXPage **page)
{
    return vhdx_cache_get_ahead(bs, offset, 0, page);
}

void vhdx_cache_enter_zeroes(BDRVVHDXState *s, uint64_t offset)
{
    VHDXPage *page;

    vhdx_assert_locked(s);
    cache_evict(s->cache, 1, s->cache->kept);
    page = page_add(s->cache, offset);
    memset(page->data, 0, VHDX_PAGE_SIZE);
    page_loaded(s->cache, page);
}

static void page_dirty(VHDXCache *c, VHDXPage *page)
{
    if (!page->dirty) {
        c->clean -= page_is_clean(page);
        page->dirty = true;
        c->dirty++;
        QTAILQ_INSERT_TAIL(&c->dirty_list, page, dirty_next);
    }
}

uint8_t *vhdx_cache_modify(BDRVVHDXState *s, VHDXPage *page)
{
    vhdx_assert_locked(s);
    /* Or nothing would ever write it. */
    assert(vhdx_change_log_is_open(s));
    if (page->data == page->committing || page->data == page->logged) {
        uint8_t *data = vhdx_buffer_get(s->cache->buffers);

        page->data = memcpy(data, page->data, VHDX_PAGE_SIZE);
    }
    page_dirty(s->cache, page);
    s->cache->version++;
    return page->data;
}

int vhdx_cache_page_compare(const void *a, const void *b)
{
    const VHDXPage *x = *(VHDXPage **)a, *y = *(VHDXPage **)b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

VHDXPage *vhdx_cache_take_dirty(BDRVVHDXState *s)
{
    VHDXCache *c = s->cache;
    VHDXPage *page = QTAILQ_FIRST(&c->dirty_list);

    vhdx_assert_commit_locked(s);
    vhdx_assert_locked(s);
    if (page) {
        assert(page->dirty && !page->committing);
        page->dirty = false;
        c->dirty--;
        QTAILQ_REMOVE(&c->dirty_list, page, dirty_next);
        page->committing = page->data;
    }
    return page;
}

/* It is to be put in place. */
static void page_logged(VHDXCache *c, VHDXPage *page)
{
    page->placed = false;
    c->logged++;
    QTAILQ_INSERT_TAIL(&c->logged_list, page, logged_next);
}

void vhdx_cache_settle(BDRVVHDXState *s, VHDXPage *page, bool stable)
{
    VHDXCache *c = s->cache;
    uint8_t *data = page->committing, *old = page->logged;

    vhdx_assert_commit_locked(s);
    vhdx_assert_locked(s);
    assert(data);
    if (!stable) {
        page_dirty(c, page);
    }
    page->committing = NULL;
    if (stable) {
        if (page->placed) {
            QTAILQ_REMOVE(&c->placed_list, page, logged_next);
        }
        if (!old || page->placed) {
            page_logged(c, page);
        }
        page->logged = data;
        buffer_put(c, page, old);
    } else {
        buffer_put(c, page, data);
    }
}

void vhdx_cache_drop(BDRVVHDXState *s, uint64_t offset, uint64_t bytes)
{
    VHDXCache *c = s->cache;
    VHDXPage *page, *next;

    vhdx_assert_locked(s);
    QTAILQ_FOREACH_SAFE(page, &c->lru, next, next) {
        if (page->offset >= offset && page->offset - offset < bytes) {
            assert(!page->loading);
            page_remove(c, page);
        }
    }
}

GPtrArray *vhdx_cache_logged_pages(BDRVVHDXState *s)
{
    GPtrArray *pages = g_ptr_array_new();
    VHDXPage *page;

    vhdx_assert_commit_locked(s);
    vhdx_assert_locked(s);
    QTAILQ_FOREACH(page, &s->cache->logged_list, logged_next) {
        g_ptr_array_add(pages, page);
    }
    assert(pages->len == s->cache->logged);
    g_ptr_array_sort(pages, vhdx_cache_page_compare);
    return pages;
}

void vhdx_cache_applied(BDRVVHDXState *s, VHDXPage *page)
{
    VHDXCache *c = s->cache;

    vhdx_assert_locked(s);
    assert(page->logged && !page->placed && c->logged);
    c->logged--;
    c->applied++;
    page->placed = true;
    QTAILQ_REMOVE(&c->logged_list, page, logged_next);
    QTAILQ_INSERT_TAIL(&c->placed_list, page, logged_next);
}

void vhdx_cache_applied_settle(BDRVVHDXState *s, bool stable)
{
    VHDXCache *c = s->cache;
    VHDXPage *page;

    vhdx_assert_commit_locked(s);
    vhdx_assert_locked(s);
    while ((page = QTAILQ_FIRST(&c->placed_list))) {
        uint8_t *data = page->logged;

        assert(page->placed);
        QTAILQ_REMOVE(&c->placed_list, page, logged_next);
        if (stable) {
            page->placed = false;
            page->logged = NULL;
            c->clean += page_is_clean(page);
            buffer_put(c, page, data);
        } else {
            page_logged(c, page);
        }
    }
}
