/*
 * VHDX: the lock of an open image
 *
 * Whoever holds it is known, so that functions assert what their callers must
 * hold.  A coroutine never yields with it, so it is a coroutine's as long as it
 * is held, or a thread's outside of coroutines.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/lock.h"

void vhdx_lock_init(BDRVVHDXState *s)
{
    qemu_mutex_init(&s->lock.mutex);
    s->lock.owner = NULL;
}

void vhdx_lock_destroy(BDRVVHDXState *s)
{
    assert(!s->lock.owner);
    qemu_mutex_destroy(&s->lock.mutex);
}

void coroutine_fn vhdx_wait(BDRVVHDXState *s, CoQueue *queue)
{
    vhdx_assert_locked(s);
    qatomic_set(&s->lock.owner, NULL);
    qemu_co_queue_wait(queue, &s->lock.mutex);
    qatomic_set(&s->lock.owner, qemu_coroutine_self());
}
