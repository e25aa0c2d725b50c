/*
 * VHDX: index of what a log holds
 *
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#ifndef BLOCK_VHDX_REPLAY_INDEX_H
#define BLOCK_VHDX_REPLAY_INDEX_H

#include "block/vhdx/state.h"

VHDXReplayIndex *vhdx_replay_index_new(void);
void vhdx_replay_index_free(VHDXReplayIndex *index);

/*
 * Put @range into the index, over what is there.  Returns 0, or -E2BIG when the
 * index has become larger than it may.
 */
int vhdx_replay_index_add(VHDXReplayIndex *index, VHDXReplayRange range);

/*
 * Find the first range that ends behind file offset @offset, in bytes.  Returns
 * false where there is none.
 */
bool vhdx_replay_index_find(const VHDXReplayIndex *index, uint64_t offset,
                            VHDXReplayRange *range);

#endif
