/*
 * VHDX: what is right about a BAT entry, section 2.5
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_BAT_ENTRY_H
#define BLOCK_VHDX_BAT_ENTRY_H

#include "block/vhdx/file.h"

/*
 * The places of log, BAT and metadata are known, or have changed.  No request
 * is under way.
 */
void vhdx_bat_note_objects(BDRVVHDXState *s);

/*
 * The object that @bytes bytes at @offset overlap, by name, or NULL.  Nobody
 * reads a foreign region, so that it takes no block from the disk.  lock is
 * held, or requests are frozen.
 */
const char *vhdx_bat_object_at(BDRVVHDXState *s, uint64_t offset,
                               uint64_t bytes);

/*
 * Say that the chunk has no sector bitmap block, though one of its blocks is
 * PARTIALLY_PRESENT.  lock is held.  Returns -EIO.
 */
int GRAPH_RDLOCK
vhdx_bat_report_no_bitmap(BlockDriverState *bs, uint64_t chunk);

/*
 * Judge BAT entry @index of raw value @raw, which is about to be used, and give
 * its meaning as vhdx_bat_get() does.  Returns 0, or -EIO; says what is wrong,
 * for the first time in an open.  lock is held.
 */
int GRAPH_RDLOCK vhdx_bat_entry_use(BlockDriverState *bs, uint64_t index,
                                    uint64_t raw, uint64_t *entry);

/*
 * Judge BAT entry @index of raw value @entry.  Returns 0, or -EINVAL with
 * @errp set.  lock is held.
 */
int vhdx_bat_entry_check(BDRVVHDXState *s, uint64_t index, uint64_t entry,
                         Error **errp);

/*
 * Whether @entry is that of a payload block that has a place: PARTIALLY_PRESENT
 * is so only in an image with a parent.
 */
static inline bool vhdx_bat_is_present(BDRVVHDXState *s, uint64_t entry)
{
    return vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT ||
           (s->params.has_parent &&
            vhdx_bat_state(entry) == VHDX_BLOCK_PARTIALLY_PRESENT);
}

/* Whether @entry, that of a sector bitmap block, names one. */
static inline bool vhdx_bat_bitmap_is_present(BDRVVHDXState *s, uint64_t entry)
{
    return s->params.has_parent &&
           vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT;
}

/*
 * Whether the file has all of payload block @block at @offset, of which the
 * last one may end where the disk does.
 */
static inline bool vhdx_bat_in_file(BDRVVHDXState *s, uint64_t block,
                                    uint64_t offset)
{
    uint64_t size = vhdx_file_size(s);

    return offset <= size && vhdx_block_bytes(&s->geo, block) <= size - offset;
}

/* Whether the file has all of a sector bitmap block at @offset. */
static inline bool vhdx_bat_bitmap_in_file(BDRVVHDXState *s, uint64_t offset)
{
    uint64_t size = vhdx_file_size(s);

    return offset <= size && VHDX_BITMAP_SIZE <= size - offset;
}

/*
 * Whether raw entry @entry names a place in the file as a present block's does.
 * Behind the last entry, or where a sector bitmap's stands, it may be one all
 * the same if the disk's size, or what else tells them apart, is damaged.
 */
static inline bool vhdx_bat_may_be_block(BDRVVHDXState *s, uint64_t entry)
{
    return vhdx_bat_state(entry) >= VHDX_BLOCK_FULLY_PRESENT &&
           vhdx_bat_offset(entry) && vhdx_bat_offset(entry) < vhdx_file_size(s);
}

#endif
