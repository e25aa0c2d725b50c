/*
 * VHDX: what qemu-img amend changes
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_AMEND_H
#define BLOCK_VHDX_AMEND_H

#include "block/vhdx/state.h"

/* What -o knows. */
extern QemuOptsList vhdx_amend_opts;

/*
 * Change the image as @opts tell.  @status_cb is called with @cb_opaque as it
 * goes on.  No lock is held.  Returns 0, or -errno with @errp set: then the
 * image is whole, and it may be tried again.
 */
int coroutine_mixed_fn
vhdx_amend_options(BlockDriverState *bs, QemuOpts *opts,
                   BlockDriverAmendStatusCB *status_cb, void *cb_opaque,
                   bool force, Error **errp);

#endif
