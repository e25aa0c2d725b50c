/*
 * VHDX: reading dirty bitmaps
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_DIRTY_LOAD_H
#define BLOCK_VHDX_DIRTY_LOAD_H

#include "block/dirty-bitmap.h"
#include "block/vhdx/dirty-area.h"
#include "block/vhdx/state.h"

/*
 * What the file has, as far as it is stable.  Where it has nothing: NULL.  An
 * error is -ENOTSUP for a version that is not known, -EINVAL for damage, or
 * what a read gave.
 */
struct VHDXDirtyBitmaps {
    uint32_t page;                  /* the head's */
    char *error;                    /* why nothing more is known, or NULL */
    int why;                        /* ... as -errno */
    VHDXDirtyHead head;
    GPtrArray *list;                /* VHDXDirtyBitmap, in their order */
};

/*
 * Read what the file has of dirty bitmaps, and, if @bits, let the node have
 * them; those that it has already stay as they are.  Where something is wrong a
 * warning tells so, and the image can be used all the same.  No request is
 * under way.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_dirty_load(BlockDriverState *bs, bool bits);

/* Forget what the file has.  No request is under way, or lock is held. */
void vhdx_dirty_free(BDRVVHDXState *s);

/*
 * Whether what the file has belongs to its content: nothing has been changed
 * since it was stored.  lock or commit_lock is held, or no request is under
 * way.
 */
bool vhdx_dirty_is_current(BDRVVHDXState *s);

/* The first page that may have the head: it is behind all items. */
static inline uint32_t vhdx_dirty_first_page(BDRVVHDXState *s)
{
    return ROUND_UP(s->items_end, MiB) / VHDX_PAGE_SIZE;
}

/* So many pages of the metadata region may have to do with bitmaps. */
static inline uint32_t vhdx_dirty_region_pages(BDRVVHDXState *s)
{
    return MIN(s->metadata.length, VHDX_METADATA_MAX_LENGTH) / VHDX_PAGE_SIZE;
}

/* What a page of bits is about */
typedef struct VHDXDirtyPart {
    uint64_t offset;                /* in the disk, bytes */
    uint64_t bytes;
    uint32_t bits;
} VHDXDirtyPart;

/*
 * The page @index of a bitmap with granules of 2^@granularity bytes, on a disk
 * of @disk_size bytes.
 */
static inline VHDXDirtyPart vhdx_dirty_part(uint64_t disk_size,
                                            unsigned granularity,
                                            uint32_t index)
{
    uint64_t coverage = (uint64_t)VHDX_DIRTY_PAGE_BITS << granularity;
    VHDXDirtyPart part = { .offset = index * coverage };

    part.bytes = MIN(coverage, disk_size - part.offset);
    part.bits = DIV_ROUND_UP(part.bytes, 1ULL << granularity);
    return part;
}

/*
 * Read the map of @b, whose entry the file has.  Returns 0 or -errno of
 * reading, or -EINVAL.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_dirty_map_read(BlockDriverState *bs, VHDXDirtyBitmap *b, Error **errp);

/*
 * Read the pages of @b, which has its map, and judge them.  If @bitmap is not
 * NULL it gets them; vhdx_dirty_map_read() and it are for the same disk size.
 * Returns as vhdx_dirty_map_read() does.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_dirty_bits_read(BlockDriverState *bs, const VHDXDirtyBitmap *b,
                     BdrvDirtyBitmap *bitmap, Error **errp);

#endif
