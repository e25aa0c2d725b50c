/*
 * VHDX: finding in the log what is to be replayed, section 2.3.3
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_REPLAY_LOAD_H
#define BLOCK_VHDX_REPLAY_LOAD_H

#include "block/vhdx/state.h"

/*
 * Find the active sequence of the log that @s->header names and make
 * @s->replay from it; nothing is written.  Called by open.  Returns 0,
 * -EINVAL where no sequence counts or the file was cut, or -errno of reading.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_replay_load(BlockDriverState *bs, Error **errp);

#endif
