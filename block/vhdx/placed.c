/*
 * VHDX: places for the blocks of a fixed image
 *
 * In a fixed image each block has its place from the start, with zeros in it.
 * As new images of that kind have it, the host may give the space now or when
 * it is written to.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/placed.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"

int coroutine_fn vhdx_placed_reserve(BlockDriverState *bs, uint64_t blocks,
                                     PreallocMode prealloc, VHDXPlaced *p)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t size = vhdx_file_size(s);
    int ret;

    *p = (VHDXPlaced) {
        .keep = prealloc == PREALLOC_MODE_FALLOC ||
                prealloc == PREALLOC_MODE_FULL,
        .given = UINT64_MAX,
    };
    if (p->keep) {
        ret = vhdx_space_reserve(bs, blocks, prealloc);
        if (!vhdx_file_length_refused(ret)) {
            p->given = size;
            return ret;
        }
    }
    ret = vhdx_space_reserve(bs, blocks, PREALLOC_MODE_OFF);
    if (ret < 0) {
        return ret;
    }
    if (prealloc == PREALLOC_MODE_FALLOC && vhdx_file_size(s) > size) {
        /* The node can get longer: it is the mode that it does not know. */
        return -ENOTSUP;
    }
    return 0;
}

/* Set the entry of @block, of the disk or behind it: it is at @offset. */
static int coroutine_fn GRAPH_RDLOCK
entry_set_present(BlockDriverState *bs, uint64_t block, uint64_t offset)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t at = s->bat.offset +
                  vhdx_bat_index(&s->geo, block) * VHDX_BAT_ENTRY_SIZE;
    uint64_t entry = cpu_to_le64(vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT,
                                                offset));

    return vhdx_commit_put(bs, at, sizeof(entry), &entry);
}

/* The place for @block, or -errno; @zero: it reads as zeros. [place-zeroed] */
static int64_t coroutine_fn GRAPH_RDLOCK
place_take(BlockDriverState *bs, uint64_t block, uint64_t kept, bool *zero)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    *zero = false;
    VHDX_LOCK_GUARD(s);
    ret = vhdx_space_take_kept(bs, block, kept);
    return ret < 0 ? ret : ret > 0 ? kept :
           vhdx_space_alloc(bs, s->geo.block_size, zero);
}

/* [place-zeroed] [data-barrier] */
int coroutine_fn vhdx_placed_add(BlockDriverState *bs, uint64_t block,
                                 uint64_t kept, const VHDXPlaced *p)
{
    BDRVVHDXState *s = bs->opaque;
    bool zero;
    int64_t offset = place_take(bs, block, kept, &zero);
    int ret;

    if (offset < 0) {
        return offset;
    }
    if (!zero || (p->keep && offset < p->given)) {
        /* The file may have no more of the last block than the disk needs. */
        ret = vhdx_space_extend_to(bs, offset + s->geo.block_size) ?:
              vhdx_file_pwrite_zeroes(bs, offset, s->geo.block_size,
                                      p->keep ? 0 : BDRV_REQ_MAY_UNMAP);
        if (ret < 0) {
            VHDX_LOCK_GUARD(s);
            if (offset == kept) {
                vhdx_space_keep(s, kept);
            } else {
                vhdx_space_return(s, offset, s->geo.block_size, true);
            }
            return ret;
        }
    }
    if (!zero && block < s->geo.blocks) {
        /* What is behind the last block is made stable by who makes it one. */
        VHDX_LOCK_GUARD(s);
        vhdx_change_order(s);
    }
    /* If it is set though this fails, it is cleared with the others. */
    return entry_set_present(bs, block, offset);
}
