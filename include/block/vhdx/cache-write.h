/*
 * VHDX: metadata that lies on several pages, written at once
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CACHE_WRITE_H
#define BLOCK_VHDX_CACHE_WRITE_H

#include "block/vhdx/cache.h"

/*
 * Replace @bytes bytes of metadata at file offset @offset by @buf, in pages
 * that get dirty together.  No lock is held, or commit_lock; nobody else
 * changes these pages.  Returns 0 or -errno of reading what surrounds it.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_cache_write(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  const void *buf);

#endif
