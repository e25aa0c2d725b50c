/*
 * VHDX: metadata that lies on several pages, written at once
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/cache-write.h"
#include "block/vhdx/change.h"
#include "block/vhdx/lock.h"

/* Copy what of @buf, for @bytes at @offset, lies in the page at @at. */
static void page_update(BDRVVHDXState *s, uint64_t at, uint64_t offset,
                        uint64_t bytes, const uint8_t *buf)
{
    VHDXPage *page = vhdx_cache_peek(s, at);
    uint64_t from = MAX(at, offset);
    uint64_t n = MIN(at + VHDX_PAGE_SIZE, offset + bytes) - from;

    if (memcmp(page->data + from - at, buf + from - offset, n)) {
        memcpy(vhdx_cache_modify(s, page) + from - at, buf + from - offset, n);
    }
}

/*
 * Have the pages from @first up to @end in memory at once.  lock is held, and
 * dropped where one is read.  Returns 0 or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
pages_have(BlockDriverState *bs, uint64_t first, uint64_t end)
{
    BDRVVHDXState *s = bs->opaque;
    bool all;

    /* Those that are read first may be dropped while others are read. */
    do {
        all = true;
        for (uint64_t at = first; at < end; at += VHDX_PAGE_SIZE) {
            VHDXPage *page = vhdx_cache_find(s, at);

            if (!page) {
                int ret = vhdx_cache_get(bs, at, &page);

                if (ret < 0) {
                    return ret;
                }
                all = false;
            }
        }
    } while (!all);
    return 0;
}

int coroutine_fn vhdx_cache_write(BlockDriverState *bs, uint64_t offset,
                                   uint64_t bytes, const void *buf)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t first = QEMU_ALIGN_DOWN(offset, VHDX_PAGE_SIZE);
    uint64_t end = offset + bytes;
    unsigned count = DIV_ROUND_UP(end - first, VHDX_PAGE_SIZE);
    int ret;

    vhdx_assert_unlocked(s);
    VHDX_LOCK_GUARD(s);
    /* A locator takes up to 50 pages. */
    vhdx_cache_keep(s, count);
    ret = pages_have(bs, first, end);
    vhdx_cache_keep(s, -(int)count);
    if (ret < 0) {
        return ret;
    }
    for (uint64_t at = first; at < end; at += VHDX_PAGE_SIZE) {
        page_update(s, at, offset, bytes, buf);
    }
    vhdx_change_note(s);
    return 0;
}
