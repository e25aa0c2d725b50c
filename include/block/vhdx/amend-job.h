/*
 * VHDX: what the QMP command x-blockdev-amend changes
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_AMEND_JOB_H
#define BLOCK_VHDX_AMEND_JOB_H

#include "block/vhdx/state.h"

/* As .bdrv_amend_pre_run and .bdrv_co_amend of struct BlockDriver */
int GRAPH_RDLOCK vhdx_amend_pre_run(BlockDriverState *bs, Error **errp);
int coroutine_fn GRAPH_RDLOCK
vhdx_co_amend(BlockDriverState *bs, BlockdevAmendOptions *opts, bool force,
              Error **errp);

#endif
