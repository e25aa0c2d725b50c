/*
 * VHDX: what comes before the first change, section 2.2.2
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_BEGIN_H
#define BLOCK_VHDX_BEGIN_H

#include "block/vhdx/change.h"

/*
 * Whether @bs is one that can be written to now.  Returns 0, or -errno with
 * @errp set.
 */
int vhdx_begin_check(BlockDriverState *bs, Error **errp);

/*
 * Make sure that the image may be changed, metadata or all, as @to tells: apply
 * the replay, give the file its new FileWriteGuid, and for VHDX_DATA a new
 * DataWriteGuid, of which its children are told, and open the log.  Cheap after
 * the first time.  No lock is held.  Returns 0 or -errno; -EPERM, with a
 * message, where a child can't be told.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_begin(BlockDriverState *bs, VHDXWriteState to);

#endif
