/*
 * VHDX: metadata pages in memory
 *
 * The BAT is read 4 KiB at a time, when a request first needs a page of it.
 * Pages are kept in a hash table by file offset and dropped, least recently
 * used first, when there are more than the limit.  A page with changes stays
 * until they are in place in the file:
 *
 *            vhdx_cache_dirty()      commit           apply
 *     clean ------------------> dirty -----> logged --------> clean
 *
 * A logged page may become dirty again; it then has two versions, and it is
 * the logged one, which is known to be stable in the log, that is written in
 * place.  vhdx-log.c does commit and apply.
 *
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "block/vhdx.h"

static void page_free(void *opaque)
{
    VHDXPage *page = opaque;

    qemu_vfree(page->data);
    qemu_vfree(page->logged);
    g_free(page);
}

void vhdx_cache_init(BDRVVHDXState *s)
{
    VHDXCache *c = &s->cache;

    c->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL,
                                     page_free);
    c->limit = VHDX_CACHE_BYTES / VHDX_PAGE_SIZE;
    QTAILQ_INIT(&c->lru);
    QTAILQ_INIT(&c->dirty_list);
    QTAILQ_INIT(&c->logged_list);
    qemu_co_queue_init(&c->loaded);
}

void vhdx_cache_free(BDRVVHDXState *s)
{
    g_clear_pointer(&s->cache.pages, g_hash_table_destroy);
}

static void page_remove(VHDXCache *c, VHDXPage *page)
{
    QTAILQ_REMOVE(&c->lru, page, next);
    g_hash_table_remove(c->pages, &page->offset);
}

/*
 * Drop a page if there are too many.  Those that can't go are taken for
 * recently used, so that they do not stand in the way the next time.
 */
static void cache_evict(VHDXCache *c)
{
    unsigned count = g_hash_table_size(c->pages);

    for (unsigned i = 0; i < count && g_hash_table_size(c->pages) >= c->limit;
         i++) {
        VHDXPage *page = QTAILQ_FIRST(&c->lru);

        if (page->loading || page->dirty || page->logged ||
            page->committing) {
            QTAILQ_REMOVE(&c->lru, page, next);
            QTAILQ_INSERT_TAIL(&c->lru, page, next);
        } else {
            page_remove(c, page);
        }
    }
}

VHDXPage *vhdx_cache_peek(BDRVVHDXState *s, uint64_t offset)
{
    VHDXPage *page = g_hash_table_lookup(s->cache.pages, &offset);

    return page && !page->loading ? page : NULL;
}

int coroutine_fn vhdx_cache_get(BlockDriverState *bs, uint64_t offset,
                                VHDXPage **page)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCache *c = &s->cache;
    VHDXPage *p;
    int ret;

    while ((p = g_hash_table_lookup(c->pages, &offset))) {
        if (!p->loading) {
            if (QTAILQ_NEXT(p, next)) {
                QTAILQ_REMOVE(&c->lru, p, next);
                QTAILQ_INSERT_TAIL(&c->lru, p, next);
            }
            *page = p;
            return 0;
        }
        qemu_co_queue_wait(&c->loaded, &s->lock);
    }

    cache_evict(c);
    p = g_new0(VHDXPage, 1);
    p->offset = offset;
    p->data = qemu_blockalign(bs->file->bs, VHDX_PAGE_SIZE);
    p->loading = true;
    g_hash_table_insert(c->pages, &p->offset, p);
    QTAILQ_INSERT_TAIL(&c->lru, p, next);

    qemu_mutex_unlock(&s->lock);
    ret = vhdx_replay_read(bs, offset, VHDX_PAGE_SIZE, p->data);
    qemu_mutex_lock(&s->lock);

    p->loading = false;
    qemu_co_queue_restart_all(&c->loaded);
    if (ret < 0) {
        page_remove(c, p);
        return ret;
    }
    *page = p;
    return 0;
}

void vhdx_cache_dirty(BDRVVHDXState *s, VHDXPage *page)
{
    if (!page->dirty) {
        page->dirty = true;
        s->cache.dirty++;
        QTAILQ_INSERT_TAIL(&s->cache.dirty_list, page, dirty_next);
    }
}

VHDXPage *vhdx_cache_take_dirty(BDRVVHDXState *s)
{
    VHDXPage *page = QTAILQ_FIRST(&s->cache.dirty_list);

    if (page) {
        page->dirty = false;
        s->cache.dirty--;
        QTAILQ_REMOVE(&s->cache.dirty_list, page, dirty_next);
    }
    return page;
}

void vhdx_cache_set_logged(BDRVVHDXState *s, VHDXPage *page, uint8_t *data)
{
    if (data && !page->logged) {
        s->cache.logged++;
        QTAILQ_INSERT_TAIL(&s->cache.logged_list, page, logged_next);
    } else if (!data && page->logged) {
        s->cache.logged--;
        s->cache.placed++;
        QTAILQ_REMOVE(&s->cache.logged_list, page, logged_next);
    }
    qemu_vfree(page->logged);
    page->logged = data;
}

bool vhdx_cache_full(BDRVVHDXState *s)
{
    unsigned log_pages = s->header.log_length / VHDX_LOG_SECTOR;

    return s->cache.dirty >= log_pages / 4 ||
           s->cache.dirty + s->cache.logged >= s->cache.limit / 2;
}
