/*
 * VHDX: chains of differencing images
 *
 * What the block layer's commands do to them.  No lock is held by any.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHAIN_H
#define BLOCK_VHDX_CHAIN_H

#include "block/vhdx/state.h"

/* A parent that an image is to get */
typedef struct VHDXChainParent {
    const char *name;               /* NULL: it is to have none */
    const char *format;             /* NULL: not told */
} VHDXChainParent;

/*
 * Give the image @bs the parent @opaque, a VHDXChainParent, by way of its
 * Parent Locator (section 2.6.2.6).  If the node that is attached is that file,
 * or the file is not to be had, the locator tells of that node.  Nothing is
 * copied: what is not allocated in @bs is the new parent's.  An image that has
 * had no parent reads as before, all of it.  Without a name the image becomes
 * one that has none; see vhdx_flatten().  Returns 0 or -errno with @errp set;
 * then it has the parent that it had.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_chain_change_parent(BlockDriverState *bs, void *opaque, Error **errp);

/*
 * Let the differencing image @bs read as its parent, which has all that it has.
 * Returns 0 or -errno with @errp set; then some of it may be gone, which reads
 * the same.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_chain_make_empty(BlockDriverState *bs, void *opaque, Error **errp);

#endif
