/*
 * VHDX: the ring of log entries, section 2.3
 *
 * commit_lock is held where nothing else is said.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_RING_H
#define BLOCK_VHDX_RING_H

#include "block/vhdx/state.h"

/* A ring without entries, which is no log yet.  No lock is held. */
void vhdx_ring_init(BDRVVHDXState *s);
void vhdx_ring_free(BDRVVHDXState *s);

/* Begin a log with a LogGuid and a sequence number of its own. */
void vhdx_ring_begin(BDRVVHDXState *s);
VHDXGuid vhdx_ring_guid(BDRVVHDXState *s);

/* The number of the newest entry. */
uint64_t vhdx_ring_sequence(BDRVVHDXState *s);

/*
 * Whether entries take so much that pages should be put in place: two of the
 * largest fit in yet.
 */
bool vhdx_ring_is_half_full(BDRVVHDXState *s);

/*
 * How many nanoseconds the write of an entry takes, about; 0 until there have
 * been some.  lock is held.
 */
int64_t vhdx_ring_write_ns(BDRVVHDXState *s);

/* Whether all that has been put in place is stable there. */
bool vhdx_ring_applied_is_stable(BDRVVHDXState *s);

/*
 * Whether the next entry has the number of one whose write has failed, or a
 * lower one.
 */
bool vhdx_ring_has_given_up(BDRVVHDXState *s);

/*
 * Flush the file, and note what is stable thereby.  Returns 0 or -errno; with
 * the latter nothing is known of what has been written since the last flush,
 * and nothing that is flushed later makes that good.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_ring_flush_data(BlockDriverState *bs);

/* As vhdx_ring_flush_data(), where metadata is at stake: an error latches. */
int coroutine_fn GRAPH_RDLOCK vhdx_ring_flush(BlockDriverState *bs);

/*
 * Take back entries that are not known to be stable: when this has been flushed
 * the log ends before them, for certain, and the next one goes to their place.
 * Returns 0, or -errno: then they count as before, though some may be gone.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_ring_rewind(BlockDriverState *bs);

/* Bytes that the next entry may take. */
uint32_t vhdx_ring_room(BDRVVHDXState *s);

/*
 * Write one entry at the head of the ring, where there is room for it: @count
 * pages with the file offsets @offsets and the contents @data.  Returns 0, or
 * -errno with the head where it was.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_ring_write(BlockDriverState *bs, uint32_t count, const uint64_t *offsets,
                uint8_t *const *data);

/* The newest entry is stable: what lies before its tail may be reused. */
void vhdx_ring_release(BDRVVHDXState *s);

/*
 * Write all pages in place whose new content is stable in the log.  Returns 0
 * or -errno; what is not in place then is in the log still.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_ring_apply(BlockDriverState *bs);

#endif
