/*
 * VHDX unit tests: requests that have a different form in some QEMU versions
 *
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_REQUEST_H
#define TESTS_UNIT_VHDX_TEST_REQUEST_H

#include "block/vhdx-compat.h"

typedef struct DiscardCall {
    Coroutine *co;
    int ret;
} DiscardCall;

static inline void discard_done(void *opaque, int ret)
{
    DiscardCall *call = opaque;

    call->ret = ret;
    aio_co_wake(call->co);
}

/* blk_co_pdiscard() has flags in one version, this way none. */
static inline int coroutine_fn co_discard(BlockBackend *blk, int64_t offset,
                                          int64_t bytes)
{
    DiscardCall call = { .co = qemu_coroutine_self() };

    blk_aio_pdiscard(blk, offset, bytes, discard_done, &call);
    qemu_coroutine_yield();
    return call.ret;
}

#endif
