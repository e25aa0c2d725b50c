/*
 * VHDX: opening and closing the log, section 2.3
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_LOG_H
#define BLOCK_VHDX_LOG_H

#include "block/vhdx/change.h"

/*
 * Let the image be changed, metadata or all, as @to tells, which is more than
 * may be changed now: apply the replay, give the file its new FileWriteGuid,
 * and for VHDX_DATA the DataWriteGuid @data_write_guid, and open the log.  A
 * damaged region table is mended.  commit_lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_log_open(BlockDriverState *bs, VHDXWriteState to,
              const VHDXGuid *data_write_guid);

/*
 * Where a failed flush has stopped all writing, go on, if that is possible now.
 * That a flush works again does not tell that what was written before is on the
 * disk: the storage may have dropped it.  So nothing is believed that was
 * written since the last flush that worked, and all of it is written again from
 * memory.  Changes that are not committed yet have been kept.  Guest data is in
 * nobody's memory; the guest was told.  But where metadata could name old data
 * that way, writing stays stopped.  No lock is held, no frozen request waits
 * for the caller.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_log_resume(BlockDriverState *bs);

/*
 * Put everything in place and close the log: LogGuid zero in both headers, the
 * file cut to its last object.  Requests have ended.  No lock is held.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_log_close(BlockDriverState *bs);

/*
 * Close the log, which is open, and let the next one have @length bytes at file
 * offset @offset, multiples of 1 MiB: a place that is taken for it and may hold
 * anything, or the first part of the one that it has.  What it no longer has is
 * free then.  Requests are frozen, no lock is held.  Returns 0 or -errno; where
 * a header may name the new place it stays taken, and so does the old one.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_log_move(BlockDriverState *bs, uint64_t offset, uint32_t length);

#endif
