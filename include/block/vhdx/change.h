/*
 * VHDX: what may be changed, and which changes are stable
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHANGE_H
#define BLOCK_VHDX_CHANGE_H

#include "block/vhdx/state.h"

/* What may be changed now; see the picture in change.c. */
typedef enum VHDXWriteState {
    VHDX_READING,       /* nothing yet: no header names a log of ours */
    VHDX_METADATA,      /* what no guest sees: FileWriteGuid is this open's */
    VHDX_DATA,          /* all: DataWriteGuid is this open's, too */
    VHDX_BROKEN,        /* nothing any more: metadata can't be written */
} VHDXWriteState;

/* No lock is held. */
void vhdx_change_init(BDRVVHDXState *s);
void vhdx_change_free(BDRVVHDXState *s);

/* Begin anew as an image that is only read.  lock is held. */
void vhdx_change_reset(BDRVVHDXState *s);

/*
 * Let @to have the state of @from, which begins anew.  lock is held by the one
 * that is in use.
 */
void vhdx_change_move(BDRVVHDXState *to, BDRVVHDXState *from);

/* -- What may be changed -- */

/* No lock is needed. */
VHDXWriteState vhdx_change_state(BDRVVHDXState *s);
bool vhdx_change_is_broken(BDRVVHDXState *s);

/*
 * Whether both headers name our log; it stays open where the image is broken.
 * commit_lock or lock is held.
 */
bool vhdx_change_log_is_open(BDRVVHDXState *s);

/*
 * Both headers name our log; DataWriteGuid is new; no header names a log of
 * ours any more.  commit_lock is held.
 */
void coroutine_fn vhdx_change_opened(BDRVVHDXState *s);
void coroutine_fn vhdx_change_data(BDRVVHDXState *s);
void coroutine_fn vhdx_change_closed(BDRVVHDXState *s);

/*
 * The children of the image are others, or its parent is: its DataWriteGuid
 * does not do for the next change.  No lock is needed; no request begins or
 * ends meanwhile.
 */
void vhdx_change_data_untold(BDRVVHDXState *s);

/*
 * Stop all writing until the image is opened again, and tell @why: what is on
 * the disk is not known any more.  commit_lock is held.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_change_latch(BlockDriverState *bs, const char *why);

/* What is on the disk is known again.  commit_lock is held. */
void coroutine_fn vhdx_change_unlatch(BDRVVHDXState *s);

/*
 * Raise QEMU's event for an image that is not as it should be, but can be read:
 * @message tells how.  Any lock may be held.
 */
void GRAPH_RDLOCK vhdx_change_corrupted_event(BlockDriverState *bs,
                                              const char *message);

/* -- Which changes are stable; lock is held -- */

/* A change is complete: a flush has something to do. */
void vhdx_change_note(BDRVVHDXState *s);

/*
 * A change is about to name data that has to be stable before it is: the next
 * commit flushes that first.
 */
void vhdx_change_order(BDRVVHDXState *s);

/* Whether one has done so since the last vhdx_change_take(). */
bool vhdx_change_is_ordered(BDRVVHDXState *s);

/* The number of the last complete change. */
uint64_t vhdx_change_last(BDRVVHDXState *s);

/* Whether all changes up to number @change are stable; note that they are. */
bool vhdx_change_is_stable(BDRVVHDXState *s, uint64_t change);
void vhdx_change_stable(BDRVVHDXState *s, uint64_t change);

/*
 * Begin a commit of all complete changes, up to number @last.  Returns whether
 * data has to be flushed first.
 */
bool vhdx_change_take(BDRVVHDXState *s, uint64_t *last);

#endif
