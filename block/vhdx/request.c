/*
 * VHDX: requests under way
 *
 * A request has a ticket as long as it uses places that it has got from the
 * BAT: a place that is freed meanwhile is used again only when all older
 * requests have ended.  What changes places of its own, such as a resize, or
 * the state as a whole, such as an activation, has requests frozen.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "block/vhdx/request.h"

void vhdx_request_init(BDRVVHDXState *s)
{
    s->allocs = g_hash_table_new(g_int64_hash, g_int64_equal);
    QTAILQ_INIT(&s->requests);
    qemu_co_queue_init(&s->alloc_queue);
    qemu_co_queue_init(&s->request_queue);
}

void vhdx_request_free(BDRVVHDXState *s)
{
    g_clear_pointer(&s->allocs, g_hash_table_destroy);
}

void coroutine_fn vhdx_request_freeze(BDRVVHDXState *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    while (s->frozen) {
        qemu_co_queue_wait(&s->request_queue, &s->lock);
    }
    s->frozen = true;
    while (!QTAILQ_EMPTY(&s->requests)) {
        qemu_co_queue_wait(&s->request_queue, &s->lock);
    }
}

void coroutine_fn vhdx_request_thaw(BDRVVHDXState *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->frozen = false;
    qemu_co_queue_restart_all(&s->request_queue);
}

uint64_t vhdx_request_oldest(BDRVVHDXState *s)
{
    VHDXRequest *req = QTAILQ_FIRST(&s->requests);

    return req ? req->ticket : s->next_ticket;
}
