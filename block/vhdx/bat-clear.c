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
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-clear.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"

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
    int ret;

    for (uint64_t i = 0; i < count; i++) {
        c->entries[i] = vhdx_bat_entry_resolve(bs, index + i, entries[i]);
    }
    vhdx_lock(s);
    ret = vhdx_cache_get(bs, offset - in_page, &page);
    if (ret < 0) {
        vhdx_unlock(s);
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
    return vhdx_commit_unlock(bs);
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

/* -- Whether something would be lost -- */

/* A look at entries that are to get a meaning */
typedef struct Stale {
    uint8_t *buf;
    uint64_t budget;                /* bytes that may be read for it */
    uint64_t index;                 /* of the one that was found */
    uint64_t offset;                /* ... and what it names */
} Stale;

/* Returns 1 at the first entry that names a place with data. */
static int coroutine_fn GRAPH_RDLOCK
stale_find(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
           uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    Stale *st = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t offset = vhdx_bat_offset(entries[i]);
        uint64_t end = MIN(offset + s->geo.block_size, vhdx_file_size(s));
        int ret;

        if (!vhdx_bat_may_be_block(s, entries[i])) {
            continue;
        }
        st->index = index + i;
        st->offset = offset;
        ret = vhdx_file_find_data(bs, &offset, end, st->buf, &st->budget);
        if (ret != 0) {
            return ret;
        }
        /* After so much many must have named the same place: no more. */
        if (!st->budget) {
            return 1;
        }
    }
    return 0;
}

int coroutine_fn vhdx_bat_clear_check_rest(BlockDriverState *bs, uint64_t end,
                                           Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    Stale st = {
        .buf = qemu_try_blockalign(bs->file->bs, VHDX_MIB),
        .budget = vhdx_file_size(s),
    };
    int ret = -ENOMEM;

    if (st.buf) {
        ret = vhdx_bat_walk(bs, s->geo.bat_entries,
                            MIN(end, s->bat.length / VHDX_BAT_ENTRY_SIZE),
                            stale_find, &st);
    }
    qemu_vfree(st.buf);
    if (ret > 0) {
        /* There is data in that place: it is another block's, or lost. */
        qemu_co_mutex_lock(&s->grow_lock);
        ret = vhdx_space_scan(bs);
        qemu_co_mutex_unlock(&s->grow_lock);
        if (ret == -EOVERFLOW || (ret == 0 && vhdx_space_lost(s))) {
            error_setg(errp, "BAT entry %" PRIu64 ", behind the end of the "
                       "disk, names a block with data at offset 0x%" PRIx64
                       ", which would be lost", st.index, st.offset);
            error_append_hint(errp, "The disk's size may be damaged. 'qemu-img "
                              "check' tells how many such blocks there are.\n"
                              "They are given up when the disk is made "
                              "shorter or the image is compacted.\n");
            return -EINVAL;
        }
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the BAT");
    }
    return ret;
}
