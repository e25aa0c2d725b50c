/*
 * VHDX: moving blocks, private to move*.c
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_MOVE_INT_H
#define BLOCK_VHDX_MOVE_INT_H

#include "block/aio_task.h"
#include "block/vhdx/move.h"

/* In a block with data there mostly is some in so many bytes. */
#define VHDX_MOVE_LOOK_FIRST    (64 * KiB)

/*
 * What can be done with a piece of a block: copy it to the new place, or see
 * whether there is data, which is noted in the block.  The graph lock is held.
 */
int coroutine_fn vhdx_move_copy(AioTask *task);
int coroutine_fn vhdx_move_look(AioTask *task);

/*
 * Let @pool do @func with @b from @at to @end, in pieces of up to @most bytes,
 * until data has been found, or something fails.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_move_pieces(BlockDriverState *bs, AioTaskPool *pool, AioTaskFunc func,
                 VHDXMove *b, uint64_t at, uint64_t end, uint64_t most);

/*
 * Do @func with all blocks of @set, from @at to @end in each, @pieces at the
 * same time, which are shorter where they are few.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_move_set_pieces(BlockDriverState *bs, VHDXMoveSet *set, int pieces,
                     AioTaskFunc func, uint64_t at, uint64_t end);

/*
 * Let new places of @set be zero behind the disk's end: what is left of the
 * last block comes to light when the disk grows.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_move_zero_rests(BlockDriverState *bs, VHDXMoveSet *set);

/*
 * Let @m's block, which is all zeros, be in the state ZERO, or its entry name
 * the new place, in memory.  Requests are held, no lock is.  Returns 0, 1 if
 * the block is not where it was, or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_move_drop(BlockDriverState *bs, const VHDXMove *m);
int coroutine_fn GRAPH_RDLOCK
vhdx_move_enter(BlockDriverState *bs, const VHDXMove *m);

#endif
