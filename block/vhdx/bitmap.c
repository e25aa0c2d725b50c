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
#include "qemu/bitmap.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/lock.h"

#define PAGE_BITS   (VHDX_PAGE_SIZE * 8)

/* So many sector bitmap blocks are known to be new, 2.5 KiB of memory. */
#define NEW_BITMAPS 64

/*
 * A sector bitmap block that was made in this open.  It reads as zeros, so its
 * pages are not read when they are used for the first time.
 */
typedef struct NewBitmap {
    uint64_t place;                 /* bytes; 0: none */
    DECLARE_BITMAP(unused, VHDX_BITMAP_SIZE / VHDX_PAGE_SIZE);
} NewBitmap;

struct VHDXNewBitmaps {
    NewBitmap bitmaps[NEW_BITMAPS];
    unsigned next;                  /* the one that is forgotten next */
};

/* That of the bitmap block at @place, or NULL if it is not known to be new. */
static NewBitmap *new_bitmap(BDRVVHDXState *s, uint64_t place)
{
    for (unsigned i = 0; s->new_bitmaps && i < NEW_BITMAPS; i++) {
        if (s->new_bitmaps->bitmaps[i].place == place) {
            return &s->new_bitmaps->bitmaps[i];
        }
    }
    return NULL;
}

void vhdx_bitmap_note_new(BDRVVHDXState *s, uint64_t place)
{
    NewBitmap *b = new_bitmap(s, place);

    vhdx_assert_locked(s);
    if (b) {
        return;
    }
    if (!s->new_bitmaps) {
        s->new_bitmaps = g_new0(VHDXNewBitmaps, 1);
    }
    b = &s->new_bitmaps->bitmaps[s->new_bitmaps->next++ % NEW_BITMAPS];
    b->place = place;
    bitmap_fill(b->unused, VHDX_BITMAP_SIZE / VHDX_PAGE_SIZE);
}

void vhdx_bitmap_forget_new(BDRVVHDXState *s, uint64_t place)
{
    NewBitmap *b = new_bitmap(s, place);

    vhdx_assert_locked(s);
    if (b) {
        b->place = 0;
    }
}

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

/*
 * Get page @page of the bitmap at @place, which is not in memory.  Of a new one
 * it is not read if it is used for the first time, nor with others, which would
 * not be told from those then.
 */
static int coroutine_fn GRAPH_RDLOCK
page_get_absent(BlockDriverState *bs, uint64_t place, unsigned number,
                VHDXPage **page)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t offset = place + number * VHDX_PAGE_SIZE;
    NewBitmap *b = new_bitmap(s, place);

    if (b && test_and_clear_bit(number, b->unused)) {
        vhdx_cache_enter_zeroes(s, offset);
    }
    return vhdx_cache_get_ahead(bs, offset, b ? offset + VHDX_PAGE_SIZE :
                                place + VHDX_BITMAP_SIZE, page);
}

/*
 * Get the page for sector @sector of the disk in the bitmap at @place.  Returns
 * 0, 1 if it was not in memory, so that lock may have been dropped to read it
 * and other pages may be no longer there, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
page_get(BlockDriverState *bs, uint64_t place, uint64_t sector, VHDXPage **page)
{
    unsigned number = sector / PAGE_BITS % (VHDX_BITMAP_SIZE / VHDX_PAGE_SIZE);
    uint64_t offset = place + number * VHDX_PAGE_SIZE;
    int ret;

    *page = vhdx_cache_find(bs->opaque, offset);
    if (*page) {
        return 0;
    }
    ret = page_get_absent(bs, place, number, page);
    return ret < 0 ? ret : 1;
}

/*
 * Get the page with the bit of the sector at @offset of the disk, which is in a
 * block that is PARTIALLY_PRESENT.  Returns as vhdx_bitmap_get_run() does.
 */
static int coroutine_fn GRAPH_RDLOCK
page_of(BlockDriverState *bs, uint64_t offset, VHDXPage **page)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t chunk = offset >> s->geo.block_bits >> s->geo.chunk_bits;
    uint64_t version = vhdx_cache_version(s);
    uint64_t place;
    int ret;

    do {
        ret = vhdx_bat_get_bitmap(bs, chunk, &place);
    } while (ret > 0);
    if (ret < 0) {
        return ret;
    }
    if (!place) {
        return version != vhdx_cache_version(s) ? 1 :
               vhdx_bat_report_no_bitmap(bs, chunk);
    }
    ret = page_get(bs, place, offset >> ctz32(s->params.logical_sector), page);
    return ret < 0 ? ret : version != vhdx_cache_version(s);
}

int coroutine_fn vhdx_bitmap_get_run(BlockDriverState *bs, uint64_t offset,
                                     uint64_t bytes, bool *in_block,
                                     uint64_t *run)
{
    BDRVVHDXState *s = bs->opaque;
    unsigned sector_bits = ctz32(s->params.logical_sector);
    uint64_t first = offset >> sector_bits;
    uint64_t last = (offset + bytes - 1) >> sector_bits;
    /* The page's first sector */
    uint64_t base = QEMU_ALIGN_DOWN(first, PAGE_BITS);
    unsigned end;
    VHDXPage *page;
    int ret = page_of(bs, offset, &page);

    if (ret != 0) {
        return ret;
    }
    *in_block = page_bit(page->data, first - base);
    end = page_run_end(page->data, first - base,
                       MIN(last - base + 1, PAGE_BITS));
    *run = MIN(bytes, ((base + end) << sector_bits) - offset);
    return 0;
}

int coroutine_fn vhdx_bitmap_get_runs(BlockDriverState *bs, uint64_t offset,
                                      uint64_t bytes, VHDXBitmapRuns *runs)
{
    BDRVVHDXState *s = bs->opaque;
    unsigned sector_bits = ctz32(s->params.logical_sector);
    unsigned bit = (offset >> sector_bits) % PAGE_BITS;
    unsigned first = bit, end;
    VHDXPage *page;
    int ret = page_of(bs, offset, &page);

    if (ret != 0) {
        return ret;
    }
    assert(bytes <= VHDX_RUNS_BYTES);
    end = MIN(bit + (bytes >> sector_bits), PAGE_BITS);
    runs->in_block = page_bit(page->data, bit);
    for (runs->count = 0; bit < end; runs->count++) {
        bit = page_run_end(page->data, bit, end);
        runs->end[runs->count] = (bit - first) << sector_bits;
    }
    return 0;
}

/* Set or clear bits @first to @end - 1 of a page. */
static void page_fill(uint8_t *page, unsigned first, unsigned end, bool set)
{
    while (first < end) {
        if (first % 8 == 0 && end - first >= 8) {
            unsigned bytes = (end - first) / 8;

            memset(page + first / 8, set ? 0xff : 0, bytes);
            first += bytes * 8;
            continue;
        }
        page[first / 8] &= ~(1 << first % 8);
        page[first / 8] |= set << first % 8;
        first++;
    }
}

/*
 * Have all pages for sectors @first to @end - 1 in memory at once.  Returns 0,
 * 1 if lock has been dropped for that, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
pages_have(BlockDriverState *bs, uint64_t place, uint64_t first, uint64_t end)
{
    VHDXPage *page;
    int dropped = 0;

    for (uint64_t at = QEMU_ALIGN_DOWN(first, PAGE_BITS); at < end;
         at += PAGE_BITS) {
        int ret = page_get(bs, place, at, &page);

        if (ret < 0) {
            return ret;
        }
        dropped |= ret;
    }
    return dropped;
}

/* Set or clear the bits of sectors @first to @end - 1, which are in memory. */
static void bits_fill(BDRVVHDXState *s, uint64_t place, uint64_t first,
                      uint64_t end, bool set)
{
    while (first < end) {
        uint64_t base = QEMU_ALIGN_DOWN(first, PAGE_BITS);
        uint64_t last = MIN(end, base + PAGE_BITS);
        VHDXPage *page = vhdx_cache_peek(s, place +
                                            base / 8 % VHDX_BITMAP_SIZE);

        page_fill(vhdx_cache_modify(s, page), first - base, last - base, set);
        first = last;
    }
}

/* Whether all bits of sectors @first to @end - 1 are set and in memory. */
static bool bits_full(BDRVVHDXState *s, uint64_t place, uint64_t first,
                      uint64_t end)
{
    while (first < end) {
        uint64_t base = QEMU_ALIGN_DOWN(first, PAGE_BITS);
        uint64_t last = MIN(end, base + PAGE_BITS);
        VHDXPage *page = vhdx_cache_peek(s, place +
                                            base / 8 % VHDX_BITMAP_SIZE);

        if (!page || !page_bit(page->data, first - base) ||
            page_run_end(page->data, first - base, last - base) < last - base) {
            return false;
        }
        first = last;
    }
    return true;
}

/* [bits-cleared] [bits-full] */
int coroutine_fn vhdx_bitmap_set(BlockDriverState *bs, uint64_t place,
                                 uint64_t offset, uint64_t bytes, bool clear,
                                 bool *full)
{
    BDRVVHDXState *s = bs->opaque;
    unsigned sector_bits = ctz32(s->params.logical_sector);
    uint64_t block = offset >> s->geo.block_bits;
    uint64_t start = block << s->geo.block_bits >> sector_bits;
    uint64_t stop = start + (s->geo.block_size >> sector_bits);
    uint64_t disk_end = s->geo.disk_size >> sector_bits;
    uint64_t first = offset >> sector_bits;
    uint64_t end = (offset + bytes) >> sector_bits;
    int ret;

    vhdx_assert_locked(s);
    ret = pages_have(bs, place, clear ? start : first, clear ? stop : end);
    if (ret != 0) {
        return ret;
    }
    if (clear) {
        bits_fill(s, place, start, stop, false);
    }
    bits_fill(s, place, first, end, true);
    /* A look at what is beside saves going through all of the block's. */
    stop = MIN(stop, disk_end);
    *full = !clear && bits_full(s, place, end, MIN(end + 1, stop)) &&
            bits_full(s, place, start, stop);
    return 0;
}

int coroutine_fn vhdx_bitmap_clear(BlockDriverState *bs, uint64_t place,
                                   uint64_t offset, uint64_t bytes)
{
    BDRVVHDXState *s = bs->opaque;
    unsigned sector_bits = ctz32(s->params.logical_sector);
    uint64_t first = offset >> sector_bits;
    uint64_t end = (offset + bytes) >> sector_bits;
    int ret;

    vhdx_assert_locked(s);
    ret = pages_have(bs, place, first, end);
    if (ret != 0) {
        return ret;
    }
    bits_fill(s, place, first, end, false);
    return 0;
}

int coroutine_fn vhdx_bitmap_is_full(BlockDriverState *bs, uint64_t block)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t offset = block << s->geo.block_bits;
    uint64_t end = offset + vhdx_block_bytes(&s->geo, block);

    vhdx_assert_unlocked(s);
    VHDX_LOCK_GUARD(s);
    while (offset < end) {
        bool in_block = false;
        uint64_t run = 0;
        int ret = vhdx_bitmap_get_run(bs, offset, end - offset, &in_block,
                                      &run);

        if (ret < 0) {
            return ret;
        }
        /* Where others have changed something nothing is found. */
        if (ret == 0 && !in_block) {
            return 0;
        }
        offset += ret == 0 ? run : 0;
    }
    return 1;
}
