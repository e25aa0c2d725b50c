/*
 * VHDX: coroutines called from the main loop
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CALL_H
#define BLOCK_VHDX_CALL_H

#include "block/vhdx/compat.h"

/* What is called with the graph locked.  Returns 0 or -errno with @errp set. */
typedef int coroutine_fn
VHDXCallFunc(BlockDriverState *bs, void *opaque, Error **errp);

/*
 * Run @func in a coroutine and wait for it, if not already in one.  Returns
 * what it does.
 */
int coroutine_mixed_fn vhdx_call(BlockDriverState *bs, VHDXCallFunc *func,
                                 void *opaque, Error **errp);

#endif
