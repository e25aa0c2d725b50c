/*
 * VHDX: clearing BAT entries
 *
 * A resize gives up the blocks behind the disk's new end.  Entries behind the
 * last block mean nothing, but may hold anything after a power cut in an
 * earlier resize, or in an image that another program has made.  They are
 * cleared before they get a meaning, and where the user asks for a shorter
 * disk or file.
 *
 * The place of a block that is certain to be one gets free with the entry.
 * What else entries name is only counted, as it may be damaged: a scan will
 * find which space is free then.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-clear.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/space-freed.h"

typedef struct Clearing {
    bool release;                   /* blocks get free */
    uint64_t given_up;              /* others that seemed to be blocks' */
    uint64_t entries[VHDX_BAT_PAGE_ENTRIES];    /* on a page, as they read */
} Clearing;

/* Whether @entry, with index @index, names the place of a present block. */
static bool entry_is_block(BDRVVHDXState *s, uint64_t index, uint64_t entry)
{
    uint64_t block;

    return vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT &&
           !vhdx_bat_index_is_bitmap(&s->geo, index, &block) &&
           vhdx_bat_entry_check(s, index, entry, NULL) == 0;
}

/* Clear @count entries on one page, @entries, as nobody else changes them. */
static int coroutine_fn GRAPH_RDLOCK
entries_clear_page(BlockDriverState *bs, uint64_t index,
                   const uint64_t *entries, uint64_t count, Clearing *c)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t offset = s->bat.offset + index * VHDX_BAT_ENTRY_SIZE;
    uint64_t in_page = offset % VHDX_PAGE_SIZE;
    VHDXPage *page;
    uint8_t *raw;
    bool due;
    int ret;

    for (uint64_t i = 0; i < count; i++) {
        c->entries[i] = vhdx_bat_entry_resolve(bs, index + i, entries[i]);
    }
    WITH_VHDX_LOCK_GUARD(s) {
        ret = vhdx_cache_get(bs, offset - in_page, &page);
        if (ret < 0) {
            return ret;
        }
        raw = vhdx_cache_modify(s, page) + in_page;
        for (uint64_t i = 0; i < count; i++) {
            if (c->release && entry_is_block(s, index + i, c->entries[i])) {
                vhdx_space_release(s, vhdx_bat_offset(c->entries[i]),
                                   s->geo.block_size);
            } else {
                c->given_up += vhdx_bat_may_be_block(s, entries[i]);
            }
        }
        memset(raw, 0, count * VHDX_BAT_ENTRY_SIZE);
        vhdx_change_note(s);
        due = vhdx_commit_relief_due(s);
    }
    return due ? vhdx_commit_relieve(bs) : 0;
}

static int coroutine_fn GRAPH_RDLOCK
entries_clear_run(BlockDriverState *bs, uint64_t index,
                  const uint64_t *entries, uint64_t count, void *opaque)
{
    while (count) {
        uint64_t n = MIN(count, VHDX_BAT_PAGE_ENTRIES -
                                index % VHDX_BAT_PAGE_ENTRIES);

        if (!buffer_is_zero(entries, n * VHDX_BAT_ENTRY_SIZE)) {
            int ret = entries_clear_page(bs, index, entries, n, opaque);

            if (ret < 0) {
                return ret;
            }
        }
        index += n;
        entries += n;
        count -= n;
    }
    return 0;
}

int64_t coroutine_fn
vhdx_bat_clear(BlockDriverState *bs, uint64_t first, uint64_t end, bool release)
{
    Clearing c = { .release = release };
    int ret = vhdx_bat_walk(bs, first, end, entries_clear_run, &c);

    return ret < 0 ? ret : c.given_up;
}

int64_t coroutine_fn vhdx_bat_clear_rest(BlockDriverState *bs, uint64_t first)
{
    BDRVVHDXState *s = bs->opaque;
    Clearing c = { .release = false };
    int ret = vhdx_bat_walk(bs, first, s->bat.length / VHDX_BAT_ENTRY_SIZE,
                            entries_clear_run, &c);

    if (c.given_up) {
        warn_report("VHDX image '%s': %" PRIu64 " blocks that the BAT named "
                    "behind the end of the disk have been given up",
                    bs->filename, c.given_up);
    }
    return ret < 0 ? ret : c.given_up;
}
