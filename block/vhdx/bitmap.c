/*
 * VHDX: sector bitmaps of a differencing image
 *
 * A block that is PARTIALLY_PRESENT has some of its sectors, and the parent the
 * others: there is a bit for each sector in the sector bitmap block of the
 * chunk.  Its pages are in the cache like those of the BAT.
 *
 * Bits of blocks in another state, and those behind the end of the disk, may be
 * anything.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/lock.h"

#define PAGE_BITS   (VHDX_PAGE_SIZE * 8)

/* Whether @bit of a page of a bitmap is set. */
static bool page_bit(const uint8_t *page, unsigned bit)
{
    return page[bit / 8] >> bit % 8 & 1;
}

/* The first bit from @bit on that is not like it, but at the most @end. */
static unsigned page_run_end(const uint8_t *page, unsigned bit, unsigned end)
{
    bool set = page_bit(page, bit);
    uint64_t all = set ? UINT64_MAX : 0;

    while (bit < end) {
        if (bit % 64 == 0 && ldq_le_p(page + bit / 8) == all) {
            bit += 64;
        } else if (page_bit(page, bit) == set) {
            bit++;
        } else {
            return bit;
        }
    }
    return end;
}

int coroutine_fn vhdx_bitmap_get_run(BlockDriverState *bs, uint64_t offset,
                                     uint64_t bytes, bool *in_block,
                                     uint64_t *run)
{
    BDRVVHDXState *s = bs->opaque;
    unsigned sector_bits = ctz32(s->params.logical_sector);
    uint64_t chunk = offset >> s->geo.block_bits >> s->geo.chunk_bits;
    uint64_t first = offset >> sector_bits;
    uint64_t last = (offset + bytes - 1) >> sector_bits;
    /* The page's first sector; all pages are of the same chunk. */
    uint64_t base = QEMU_ALIGN_DOWN(first, PAGE_BITS);
    uint64_t place;
    unsigned end;
    VHDXPage *page;
    int ret;

    ret = vhdx_bat_get_bitmap(bs, chunk, &place);
    if (ret != 0) {
        return ret;
    }
    place += base / 8 % VHDX_BITMAP_SIZE;
    if (!vhdx_cache_peek(s, place)) {
        ret = vhdx_cache_get(bs, place, &page);
        return ret < 0 ? ret : 1;
    }
    ret = vhdx_cache_get(bs, place, &page);
    assert(ret == 0);
    *in_block = page_bit(page->data, first - base);
    end = page_run_end(page->data, first - base,
                       MIN(last - base + 1, PAGE_BITS));
    *run = MIN(bytes, ((base + end) << sector_bits) - offset);
    return 0;
}
