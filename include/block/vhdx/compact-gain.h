/*
 * VHDX: what compacting would give back
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_COMPACT_GAIN_H
#define BLOCK_VHDX_COMPACT_GAIN_H

#include "block/vhdx/state.h"

/*
 * How many bytes shorter it would make a file whose last object ends at byte
 * @end, and that has @blocks payload blocks and @bitmaps sector bitmap blocks
 * that are needed.  What is behind @end counts only with @cut, and where the
 * file is known to get shorter.
 */
uint64_t vhdx_compact_gain(BDRVVHDXState *s, uint64_t end, bool cut,
                           uint64_t blocks, uint64_t bitmaps);

/*
 * How many bytes shorter that would make the file, without "zeroes": by going
 * through the BAT, for which no lock is held, or by what is known anyway.
 * Returns -1 where that is not known, as with an image that can't be compacted.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_compact_gains_look(BlockDriverState *bs);
int64_t vhdx_compact_gains_known(BDRVVHDXState *s);

#endif
