/*
 * VHDX: moving regions
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_REGION_H
#define BLOCK_VHDX_REGION_H

#include "block/vhdx/state.h"

/*
 * Put @buf over @bytes bytes of metadata at file offset @offset, which hold
 * @old, and make that stable: in a log entry that has nothing else, after all
 * that was changed before.  The log is open, no lock is held.  Returns 0 or
 * -errno; then they are @old again.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_region_replace_bytes(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                          const void *buf, const void *old);

/*
 * Let the BAT have room for the entries of @geo: it is moved if it has none,
 * and what it gets reads as zeros.  Requests are frozen, no lock is held.
 * Returns 0 or -errno; then nothing has changed.  Sections 2.2.3 and 2.4.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_region_fit_bat(BlockDriverState *bs, const VHDXGeometry *geo);

/*
 * Where the disk was larger once, let the BAT have the length that it has in a
 * new image, and commit that.  Requests are frozen, no lock is held.  Returns 0
 * or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_region_shorten_bat(BlockDriverState *bs);

/*
 * What fills a region's new place at file offset @offset.  Returns 0 or -errno.
 */
typedef int coroutine_fn
VHDXRegionFill(BlockDriverState *bs, uint64_t offset, void *opaque);

/*
 * Move the metadata region to a place of @length bytes, a multiple of 1 MiB:
 * its first @keep bytes go along, the rest is what @fill writes, and zeros.
 * Requests are frozen, no lock is held.  Returns 0 or -errno; then the region
 * is where it was, unless a power cut comes before the next commit.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_region_move_metadata(BlockDriverState *bs, uint32_t length, uint32_t keep,
                          VHDXRegionFill *fill, void *opaque);

/*
 * Let the metadata region have no more than @length bytes, less than now.
 * Requests are frozen, no lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_region_shorten_metadata(BlockDriverState *bs, uint32_t length);

/*
 * Move regions that end behind file offset @limit, of those that the driver
 * knows, to the first free place before each, and commit that.  One that would
 * overlap itself there goes up before, to the end of what is in use, if it ends
 * behind @far.  What is free is known, requests are frozen, no lock is held.
 * Returns 0 or -errno; each region is where it was or where it goes.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_region_lower_all(BlockDriverState *bs, uint64_t limit, uint64_t far);

#endif
