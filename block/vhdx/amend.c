/*
 * VHDX: what qemu-img amend changes
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/option.h"
#include "block/vhdx/amend.h"
#include "block/vhdx/call.h"
#include "block/vhdx/compact.h"

#define VHDX_OPT_COMPACT    "compact"

QemuOptsList vhdx_amend_opts = {
    .name = "vhdx-amend-opts",
    .head = QTAILQ_HEAD_INITIALIZER(vhdx_amend_opts.head),
    .desc = {
        {
            .name = VHDX_OPT_COMPACT,
            .type = QEMU_OPT_STRING,
            .help = "Make the file of a dynamic image shorter: 'space' fills "
                    "free space with blocks from the end, 'zeroes' gives up "
                    "blocks full of zeros before that",
        },
        { /* end of list */ }
    },
};

/* What vhdx_co_compact() is called with */
typedef struct CompactCall {
    bool zeroes;
    BlockDriverAmendStatusCB *status_cb;
    void *cb_opaque;
} CompactCall;

static int coroutine_fn GRAPH_RDLOCK
compact_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    CompactCall *call = opaque;

    return vhdx_co_compact(bs, call->zeroes, call->status_cb, call->cb_opaque,
                           errp);
}

int coroutine_mixed_fn
vhdx_amend_options(BlockDriverState *bs, QemuOpts *opts,
                   BlockDriverAmendStatusCB *status_cb, void *cb_opaque,
                   bool force, Error **errp)
{
    const char *compact = qemu_opt_get(opts, VHDX_OPT_COMPACT);
    bool zeroes = compact && !strcmp(compact, "zeroes");

    if (!compact) {
        return 0;
    }
    if (!zeroes && strcmp(compact, "space")) {
        error_setg(errp, VHDX_OPT_COMPACT " can be 'space' or 'zeroes', not "
                   "'%s'", compact);
        return -EINVAL;
    }
    return vhdx_call(bs, compact_entry, &(CompactCall) {
        .zeroes = zeroes,
        .status_cb = status_cb,
        .cb_opaque = cb_opaque,
    }, errp);
}
