/*
 * VHDX: another place for the log
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_LOG_MOVE_H
#define BLOCK_VHDX_LOG_MOVE_H

#include "block/vhdx/state.h"

/*
 * Let the log have @length bytes, a multiple of 1 MiB; if it has others, it
 * moves.  Requests wait meanwhile.  No lock is held.  Returns 0, or -errno with
 * @errp set: then the log is as it was, or has the new place.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_log_resize(BlockDriverState *bs, uint32_t length, Error **errp);

/*
 * If the log ends behind file offset @limit, move it down into free space.  If
 * it would overlap itself there, that is done only if it ends behind @far, as
 * it has to go up first.  What is free is known, requests are frozen, no lock
 * is held.  The log may be closed afterwards.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_log_lower(BlockDriverState *bs, uint64_t limit, uint64_t far);

#endif
