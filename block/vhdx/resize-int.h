/*
 * VHDX: resizing a differencing image, private to resize*.c
 *
 * Requests are frozen, the log is open, and no lock is held by all of it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_RESIZE_INT_H
#define BLOCK_VHDX_RESIZE_INT_H

#include "block/vhdx/state.h"

/*
 * Let what the disk does not use of its last block read as zeros when the disk
 * gets longer, in the states in which sectors may be the parent's; those that
 * are FULLY_PRESENT are not looked at.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_resize_last_block(BlockDriverState *bs);

/*
 * Set the entries of blocks that a disk of @geo has in addition and that would
 * read as the parent: they read as zeros.  All are zero before.  The BAT has
 * room for them.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_resize_cover_parent(BlockDriverState *bs, const VHDXGeometry *geo);

#endif
