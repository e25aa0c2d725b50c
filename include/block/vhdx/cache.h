/*
 * VHDX: metadata pages in memory
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CACHE_H
#define BLOCK_VHDX_CACHE_H

#include "block/vhdx/state.h"

void vhdx_cache_init(BDRVVHDXState *s);
void vhdx_cache_free(BDRVVHDXState *s);

/*
 * Let the cache take no more than @s->cache_size from now on.  If its memory is
 * more than that, drop clean pages and give it back, as far as pages with
 * changes let it.  lock is held.
 */
void vhdx_cache_limit(BDRVVHDXState *s);

/*
 * Get the page at file offset @offset.  lock is held; it is dropped while the
 * page is read in, so what was known before may have changed.  @page is good
 * until lock is dropped the next time.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_cache_get(BlockDriverState *bs, uint64_t offset, VHDXPage **page);

/* The page at @offset if it is in memory, else NULL.  lock is held. */
VHDXPage *vhdx_cache_peek(BDRVVHDXState *s, uint64_t offset);

/*
 * The content of @page for the caller to change: it counts as dirty now.  The
 * log is open.  lock is held, until the change is complete.
 */
uint8_t *vhdx_cache_change(BDRVVHDXState *s, VHDXPage *page);

/*
 * Take a dirty page into the commit under way, or NULL if there is none: what
 * it holds now stays as @committing until vhdx_cache_commit_end(), which makes
 * it @logged if it is @stable, and the page dirty again if not.  commit_lock
 * and lock are held by both.
 */
VHDXPage *vhdx_cache_commit(BDRVVHDXState *s);
void vhdx_cache_commit_end(BDRVVHDXState *s, VHDXPage *page, bool stable);

/*
 * Replace @bytes bytes of metadata at file offset @offset by @buf, in pages
 * that get dirty together.  No lock is held, or commit_lock; nobody else
 * changes these pages.  Returns 0 or -errno of reading what surrounds it.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_cache_update(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  const void *buf);

/*
 * Forget the pages in @bytes bytes at file offset @offset, none of which has a
 * change under way.  lock is held.
 */
void vhdx_cache_drop(BDRVVHDXState *s, uint64_t offset, uint64_t bytes);

/* Compare two VHDXPage * by offset, as g_ptr_array_sort() wants it. */
int vhdx_page_compare(const void *a, const void *b);

/*
 * Note that @page->logged is in place.  It is kept until a flush tells that it
 * is stable there, or that it may not be: then it is to be put in place again.
 * commit_lock and lock are held.
 */
void vhdx_cache_placed(BDRVVHDXState *s, VHDXPage *page);
void vhdx_cache_placed_end(BDRVVHDXState *s, bool stable);

#endif
