/*
 * VHDX: image creation
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CREATE_H
#define BLOCK_VHDX_CREATE_H

#include "block/vhdx/state.h"

/*
 * Make an image of @opts on a node that there is already, as QMP's
 * blockdev-create does; numbers have to be exact.  Returns 0, or -errno with
 * @errp set: then no part of an image opens there.
 */
int coroutine_fn GRAPH_UNLOCKED
vhdx_co_create(BlockdevCreateOptions *opts, Error **errp);

/*
 * Make an image of @opts, with the freedom of -o, in file @filename, which is
 * made, too, and removed on error if it was not there before.  Returns 0, or
 * -errno with @errp set.
 */
int coroutine_fn GRAPH_UNLOCKED
vhdx_co_create_opts(BlockDriver *drv, const char *filename, QemuOpts *opts,
                    Error **errp);

#endif
