/*
 * VHDX: requests under way
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_REQUEST_H
#define BLOCK_VHDX_REQUEST_H

#include "block/vhdx/state.h"

void vhdx_request_init(BDRVVHDXState *s);
void vhdx_request_free(BDRVVHDXState *s);

/*
 * Begin @req, for @bytes bytes at @offset.  Returns -EIO if the disk has become
 * too short for it since the block layer looked; it has begun all the same.
 * lock is held, and dropped while requests are frozen.
 */
static inline int coroutine_fn
request_begin(BDRVVHDXState *s, VHDXRequest *req, uint64_t offset,
              uint64_t bytes)
{
    while (s->frozen) {
        qemu_co_queue_wait(&s->request_queue, &s->lock);
    }
    req->ticket = s->next_ticket++;
    QTAILQ_INSERT_TAIL(&s->requests, req, next);
    return offset + bytes > s->geo.disk_size ? -EIO : 0;
}

static inline void coroutine_fn request_end(BDRVVHDXState *s, VHDXRequest *req)
{
    QTAILQ_REMOVE(&s->requests, req, next);
    qemu_co_queue_restart_all(&s->request_queue);
}

/*
 * Wait until all requests have ended and hold off new ones, which wait, until
 * vhdx_request_thaw().  Flushes go on.  No lock is held.
 */
void coroutine_fn vhdx_request_freeze(BDRVVHDXState *s);
void coroutine_fn vhdx_request_thaw(BDRVVHDXState *s);

/* The oldest request's ticket, or the next one's.  lock is held. */
uint64_t vhdx_request_oldest(BDRVVHDXState *s);

#endif
