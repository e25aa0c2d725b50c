/*
 * VHDX: persistent dirty bitmaps
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_DIRTY_BITMAPS_H
#define BLOCK_VHDX_DIRTY_BITMAPS_H

#include "block/vhdx/state.h"

/* -- The driver's functions, see block_int-common.h -- */

bool vhdx_supports_persistent_dirty_bitmap(BlockDriverState *bs);
bool coroutine_fn GRAPH_RDLOCK
vhdx_co_can_store_new_dirty_bitmap(BlockDriverState *bs, const char *name,
                                   uint32_t granularity, Error **errp);
int coroutine_fn GRAPH_RDLOCK
vhdx_co_remove_persistent_dirty_bitmap(BlockDriverState *bs, const char *name,
                                       Error **errp);
int coroutine_mixed_fn
vhdx_dirty_bitmap_changing(BlockDriverState *bs, Error **errp);

/* -- What other functions of the driver do for them -- */

/* What the file has, for ImageInfoSpecificVhdx; NULL where it has none. */
Qcow2BitmapInfoList *vhdx_dirty_info(BDRVVHDXState *s);

/*
 * How many bytes a copy of the bitmaps of @in_bs adds to a new image at the
 * most.
 */
uint64_t vhdx_dirty_measure(BlockDriverState *in_bs);

/*
 * Whether the disk may get another size: QEMU changes that of the bitmaps it
 * knows.  Returns 0 or -ENOTSUP.
 */
int vhdx_dirty_check_resize(BlockDriverState *bs, Error **errp);

/* Let no persistent bitmap be changed, or let it be again. */
void vhdx_dirty_set_readonly(BlockDriverState *bs, bool readonly);

/*
 * The node is not read-only any more, nor are its bitmaps.  One may have been
 * enabled meanwhile, which was no change of the file; after a crash it must not
 * be taken for one that is not.  Returns 0 or -errno.
 */
int coroutine_mixed_fn
vhdx_dirty_got_writable(BlockDriverState *bs, Error **errp);

/*
 * Whether all persistent bitmaps can be forgotten: no export or job uses them.
 * Returns 0 or -EBUSY.
 */
int vhdx_dirty_check_unused(BlockDriverState *bs, Error **errp);

/* Forget bitmaps that have been stored: who activates the image loads them. */
void vhdx_dirty_release(BlockDriverState *bs);

/*
 * Sectors have been changed that no bitmap knows of: none is to be used for a
 * backup any more.
 */
void vhdx_dirty_doubt(BlockDriverState *bs);

#endif
