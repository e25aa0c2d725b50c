/*
 * VHDX: coroutines called from the main loop
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/call.h"

typedef struct Call {
    VHDXCallFunc *func;
    BlockDriverState *bs;
    void *opaque;
    Error **errp;
    int ret;                        /* atomic */
} Call;

static void coroutine_fn call_entry(void *opaque)
{
    Call *call = opaque;
    int ret;

    GRAPH_RDLOCK_GUARD();
    ret = call->func(call->bs, call->opaque, call->errp);
    qatomic_set(&call->ret, ret);
    aio_wait_kick();
}

int coroutine_mixed_fn vhdx_call(BlockDriverState *bs, VHDXCallFunc *func,
                                 void *opaque, Error **errp)
{
    Call call = {
        .func = func,
        .bs = bs,
        .opaque = opaque,
        .errp = errp,
        .ret = -EINPROGRESS,
    };

    if (qemu_in_coroutine()) {
        call_entry(&call);
    } else {
        aio_co_enter(bdrv_get_aio_context(bs),
                     qemu_coroutine_create(call_entry, &call));
        BDRV_POLL_WHILE(bs, qatomic_read(&call.ret) == -EINPROGRESS);
    }
    return call.ret;
}
