/*
 * VHDX: the headers, section 2.2.2
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_HEADER_H
#define BLOCK_VHDX_HEADER_H

#include "block/vhdx/state.h"

/*
 * Read both headers into @s->header.  Called by open.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_header_load(BlockDriverState *bs, Error **errp);

/*
 * Write @header as the new current header, to one copy after the other with a
 * flush after each; @copies is 1 where a single copy is wanted for now.  The
 * sequence number is set here.  commit_lock is held; where the log gets another
 * place requests are frozen, and neither is it open nor does @header name it.
 * Returns 0 or -errno of the write or flush that failed; the latter latches.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_header_update(BlockDriverState *bs, const VHDXHeader *header, int copies);

/*
 * Look whether the current header in the file is still the one that this open
 * has read or written, as any other writer would have changed both copies.
 * commit_lock is held.  Returns 0, -EIO having latched if not, or -errno of
 * reading.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_header_verify(BlockDriverState *bs);

/*
 * Where writing a header has failed, the file may have it all the same, and
 * with it a DataWriteGuid that is not the one in memory.  Write the one in
 * memory over it.  commit_lock is held.  Returns as vhdx_header_update() does.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_header_settle(BlockDriverState *bs);

#endif
