/*
 * VHDX: what an amend changes
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_AMEND_H
#define BLOCK_VHDX_AMEND_H

#include "block/vhdx/compact-live.h"

/* What -o knows. */
extern QemuOptsList vhdx_amend_opts;

/* What is to be changed, and who is told how far that is */
typedef struct VHDXAmend {
    VHDXGuid disk_id;               /* nil: as it is */
    uint32_t physical_sector;       /* bytes; 0: as it is */
    uint32_t log_size;              /* bytes; 0: as it is */
    bool fix;                       /* make it fixed, with ... */
    PreallocMode prealloc;
    bool loosen;                    /* make it dynamic */
    bool compact;
    bool zeroes;                    /* ... and give up blocks of zeros */
    BlockDriverAmendStatusCB *status_cb;
    void *cb_opaque;
    const VHDXCompactUser *user;    /* NULL: requests wait for compacting */
} VHDXAmend;

/*
 * Take @subformat, "fixed" or "dynamic", the disk ID @disk_id, "new" or a GUID,
 * and sizes in bytes of a physical sector and of the log, NULL where they are
 * to stay, and see whether all that @a has goes together.  Returns 0, or
 * -EINVAL with @errp set.
 */
int vhdx_amend_take(VHDXAmend *a, const char *subformat, const char *disk_id,
                    const uint64_t *sector, const uint64_t *log_size,
                    Error **errp);

/*
 * Change the image so.  All that can be told before is looked at before
 * anything is changed.  No lock is held.  Returns 0, or -errno with @errp set,
 * which need not be with -ECANCELED: then the image is whole, and it may be
 * tried again; what was done before that stays.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_amend_change(BlockDriverState *bs, const VHDXAmend *a, Error **errp);

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
