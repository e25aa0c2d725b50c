/*
 * VHDX: where a part of the disk is
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_EXTENT_H
#define BLOCK_VHDX_EXTENT_H

#include "block/vhdx/request.h"

/* New blocks that an extent can span */
#define VHDX_MAX_ALLOCS 16

/* Where a part of a disk is */
typedef enum VHDXSource {
    VHDX_SOURCE_FILE,               /* in the image's file */
    VHDX_SOURCE_ZERO,               /* nowhere: it reads as zeros */
    VHDX_SOURCE_PARENT,             /* in the parent */
} VHDXSource;

/* A part of a request that lies in one run of its source. */
typedef struct VHDXExtent {
    VHDXSource source;
    uint64_t bytes;
    uint64_t file_offset;           /* bytes, if in the file */
    unsigned allocs;
    /* New blocks; of a child: a payload block, then its sector bitmap block */
    VHDXAlloc *alloc[VHDX_MAX_ALLOCS];
} VHDXExtent;

/*
 * Find how much of [@offset, @offset + @bytes) is in one run of one source.
 * Fewer bytes come back where the BAT can't be read later on; that is for the
 * next call to report.  If there is no more to be had than an error, @e has the
 * number of bytes for which it is known.  lock is held.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_extent_lookup(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                   VHDXExtent *e);

/*
 * Read @bytes bytes at @offset of the disk as the parent has them; see
 * vhdx_parent_preadv().  Images further down that have nothing of the range are
 * passed by, as in a long chain most of them do: to hand the request on through
 * the block layer takes several times what it takes to see that.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_extent_preadv_parent(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                          QEMUIOVector *qiov, size_t qiov_offset);

#endif
