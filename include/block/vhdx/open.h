/*
 * VHDX: loading an image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_OPEN_H
#define BLOCK_VHDX_OPEN_H

#include "block/vhdx/state.h"

/* Said where an image without a log is to be written to. */
#define VHDX_NO_LOG \
    "The image has no log (LogLength 0), which every change goes through: it " \
    "can only be opened read-only"

/* Start with an image of which nothing is known; only options are kept. */
void vhdx_open_init(BDRVVHDXState *s);

/* Forget everything that was read from the image or is to be written to it. */
void vhdx_open_free(BDRVVHDXState *s);

/*
 * Read the image, of which nothing is known yet.  The log of one that is
 * @inactive belongs to the process that is still writing to it.  No lock is
 * held.  Returns 0, or -errno with @errp set and nothing known.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_open_load(BlockDriverState *bs, bool inactive, Error **errp);

/*
 * Read the image again: what is known of it may be out of date, and changes
 * that are only in memory are given up.  Requests wait meanwhile, and look at
 * everything afresh then.  No lock is held.  Returns 0, or -errno with @errp
 * set and all as it was.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_open_load_anew(BlockDriverState *bs, Error **errp);

#endif
