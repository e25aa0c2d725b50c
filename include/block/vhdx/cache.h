/*
 * VHDX: metadata pages in memory
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CACHE_H
#define BLOCK_VHDX_CACHE_H

#include "block/vhdx/state.h"

/*
 * 4 KiB of BAT (or another table) and where its changes have got to.  @data is
 * what a request sees.  A change makes the page dirty; a commit takes that
 * version as @committing, and once it is stable in the log it is @logged, until
 * it is stable in place too.  Versions that are alike are one buffer.
 * Only pages without any change under way may be dropped.
 */
typedef struct VHDXPage {
    uint64_t offset;                /* bytes from the start of the file */
    uint8_t *data;
    uint8_t *committing;            /* a commit writes this now, or NULL */
    uint8_t *logged;                /* not yet stable in place, or NULL */
    bool placed;                    /* @logged has been written there */
    bool loading;                   /* @data is not there yet */
    bool dirty;                     /* @data has changes not yet logged */
    QTAILQ_ENTRY(VHDXPage) next;            /* in the cache's lru list */
    QTAILQ_ENTRY(VHDXPage) dirty_next;      /* ... and, if dirty, dirty_list */
    QTAILQ_ENTRY(VHDXPage) logged_next;     /* ... if @logged, in one of two */
} VHDXPage;

/* Begin with a cache of @s->cache_size bytes.  No lock is held. */
void vhdx_cache_init(BDRVVHDXState *s);
void vhdx_cache_free(BDRVVHDXState *s);

/*
 * Let the cache take no more than @bytes bytes from now on, but for what pages
 * with changes need and a few that one request does.  If its memory is more
 * than that, drop clean pages and give it back, as far as pages with changes
 * let it.  lock is held.
 */
void vhdx_cache_set_limit(BDRVVHDXState *s, uint64_t bytes);

/* How many pages that allows.  lock or commit_lock is held. */
unsigned vhdx_cache_limit(BDRVVHDXState *s);

/*
 * How many pages are dirty or logged; how many are dirty; and how many are
 * logged and have to be put in place.  lock is held; for the latter commit_lock
 * will do.
 */
unsigned vhdx_cache_count_changed(BDRVVHDXState *s);
unsigned vhdx_cache_count_dirty(BDRVVHDXState *s);
unsigned vhdx_cache_count_logged(BDRVVHDXState *s);

/*
 * How many pages have been put in place since the image was opened: as long as
 * that stays the same, no change of a page is in the file and not in memory
 * that was not before.  lock is held.
 */
uint64_t vhdx_cache_count_applied(BDRVVHDXState *s);

/*
 * A number that is another one once any page has been changed: what was found
 * in pages holds as long as it stays, be they in memory or not.  lock is held.
 */
uint64_t vhdx_cache_version(BDRVVHDXState *s);

/*
 * Let @more clean pages stay than one request needs, or as many less, though
 * the limit has been reached.  lock is held.
 */
void vhdx_cache_keep(BDRVVHDXState *s, int more);

/* Memory in use, in pages, and taken in chunks of 64 pages.  lock is held. */
unsigned vhdx_cache_count_buffers(BDRVVHDXState *s);
unsigned vhdx_cache_count_chunks(BDRVVHDXState *s);

/*
 * Get the page at file offset @offset.  lock is held; it is dropped while the
 * page is read in, so what was known before may have changed.  @page is good
 * until lock is dropped the next time.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_cache_get(BlockDriverState *bs, uint64_t offset, VHDXPage **page);

/*
 * The same for a page that is not of the BAT, where those up to file offset
 * @end may be read with it.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_cache_get_ahead(BlockDriverState *bs, uint64_t offset, uint64_t end,
                     VHDXPage **page);

/*
 * The page at @offset reads as zeros in the file: enter it, which is not in
 * memory, without reading it.  lock is held.
 */
void vhdx_cache_enter_zeroes(BDRVVHDXState *s, uint64_t offset);

/* The page at @offset if it is in memory, else NULL.  lock is held. */
VHDXPage *vhdx_cache_peek(BDRVVHDXState *s, uint64_t offset);

/* The same, and it is not dropped before others that are used less. */
VHDXPage *vhdx_cache_find(BDRVVHDXState *s, uint64_t offset);

/*
 * The content of @page for the caller to change: it counts as dirty now.  The
 * log is open.  lock is held, until the change is complete.
 */
uint8_t *vhdx_cache_modify(BDRVVHDXState *s, VHDXPage *page);

/*
 * Take a dirty page into the commit under way, or NULL if there is none: what
 * it holds now stays as @committing until vhdx_cache_settle(), which makes
 * it @logged if it is @stable, and the page dirty again if not.  commit_lock
 * and lock are held by both.
 */
VHDXPage *vhdx_cache_take_dirty(BDRVVHDXState *s);
void vhdx_cache_settle(BDRVVHDXState *s, VHDXPage *page, bool stable);

/*
 * Forget the pages in @bytes bytes at file offset @offset, none of which has a
 * change under way.  lock is held.
 */
void vhdx_cache_drop(BDRVVHDXState *s, uint64_t offset, uint64_t bytes);

/*
 * The pages that are logged and have to be put in place, VHDXPage *, in order
 * of their offsets.  commit_lock and lock are held.
 */
GPtrArray *vhdx_cache_logged_pages(BDRVVHDXState *s);

/* Compare two VHDXPage * by offset, as g_ptr_array_sort() wants it. */
int vhdx_cache_page_compare(const void *a, const void *b);

/*
 * Note that @page->logged is in place.  It is kept until a flush tells that it
 * is stable there, or that it may not be: then it is to be put in place again.
 * commit_lock and lock are held.
 */
void vhdx_cache_applied(BDRVVHDXState *s, VHDXPage *page);
void vhdx_cache_applied_settle(BDRVVHDXState *s, bool stable);

#endif
