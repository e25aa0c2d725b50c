/*
 * VHDX: requests under way, and the places they allocate
 *
 * A request has a ticket as long as it uses places that it has got from the
 * BAT: a place that is freed meanwhile is used again only when all older
 * requests have ended.  What changes places of its own, such as a resize, or
 * the state as a whole, such as an activation, has requests frozen.
 *
 * The blocks that requests are giving a place are in a table; what is done with
 * them is in alloc-place.c.  A place stands there before the BAT names it, so a
 * scan of the BAT for what is free needs the table as well.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/request.h"
#include "trace.h"

struct VHDXRequests {
    GHashTable *allocs;             /* VHDXAlloc by BAT index */
    CoQueue alloc_queue;            /* waits for PREPARING to end */
    CoQueue queue;                  /* waits for requests to end */
    bool reserved;                  /* who else would freeze them waits */
    uint64_t turn, next_turn;       /* of those who wait for that */
    bool frozen;                    /* requests wait */
    uint64_t next_ticket;
    QTAILQ_HEAD(, VHDXRequest) list;        /* oldest first */
};

void vhdx_request_init(BDRVVHDXState *s)
{
    VHDXRequests *r = g_new0(VHDXRequests, 1);

    r->allocs = g_hash_table_new(g_int64_hash, g_int64_equal);
    QTAILQ_INIT(&r->list);
    qemu_co_queue_init(&r->alloc_queue);
    qemu_co_queue_init(&r->queue);
    s->requests = r;
}

void vhdx_request_free(BDRVVHDXState *s)
{
    VHDXRequests *r = g_steal_pointer(&s->requests);

    assert(QTAILQ_EMPTY(&r->list) && !g_hash_table_size(r->allocs));
    g_hash_table_destroy(r->allocs);
    g_free(r);
}

/* Wait until requests may begin.  Out of the way of those that need not. */
static void coroutine_fn __attribute__((noinline))
wait_thaw(BDRVVHDXState *s)
{
    while (s->requests->frozen) {
        vhdx_wait(s, &s->requests->queue);
    }
}

int coroutine_fn vhdx_request_begin(BDRVVHDXState *s, VHDXRequest *req,
                                    uint64_t offset, uint64_t bytes)
{
    VHDXRequests *r = s->requests;

    vhdx_assert_locked(s);
    if (unlikely(r->frozen)) {
        wait_thaw(s);
    }
    req->ticket = r->next_ticket++;
    QTAILQ_INSERT_TAIL(&r->list, req, next);
    return offset + bytes > s->geo.disk_size ? -EIO : 0;
}

void coroutine_fn vhdx_request_end(BDRVVHDXState *s, VHDXRequest *req)
{
    VHDXRequests *r = s->requests;

    vhdx_assert_locked(s);
    assert(req->ticket < r->next_ticket);
    QTAILQ_REMOVE(&r->list, req, next);
    qemu_co_queue_restart_all(&r->queue);
}

void coroutine_fn vhdx_request_wait(BDRVVHDXState *s)
{
    vhdx_wait(s, &s->requests->queue);
}

/* lock is held by these, and dropped to wait. */
static void coroutine_fn reserve(BDRVVHDXState *s)
{
    VHDXRequests *r = s->requests;
    uint64_t turn = r->next_turn++;

    while (r->reserved || turn != r->turn) {
        vhdx_wait(s, &r->queue);
    }
    r->turn++;
    r->reserved = true;
}

static void coroutine_fn unreserve(BDRVVHDXState *s)
{
    assert(s->requests->reserved && !s->requests->frozen);
    s->requests->reserved = false;
    qemu_co_queue_restart_all(&s->requests->queue);
}

static void held(BDRVVHDXState *s)
{
    assert(!g_hash_table_size(s->requests->allocs));
    trace_vhdx_freeze(s);
}

static void coroutine_fn hold(BDRVVHDXState *s)
{
    VHDXRequests *r = s->requests;

    assert(r->reserved && !r->frozen);
    r->frozen = true;
    while (!QTAILQ_EMPTY(&r->list)) {
        vhdx_wait(s, &r->queue);
    }
    held(s);
}

static void coroutine_fn let_go(BDRVVHDXState *s)
{
    assert(s->requests->frozen);
    s->requests->frozen = false;
    trace_vhdx_thaw(s);
    qemu_co_queue_restart_all(&s->requests->queue);
}

void coroutine_fn vhdx_request_reserve(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    reserve(s);
}

void coroutine_fn vhdx_request_unreserve(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    unreserve(s);
}

void coroutine_fn vhdx_request_hold(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    hold(s);
}

/* A wait for requests to end that has a limit */
typedef struct Patience {
    BDRVVHDXState *s;
    bool ended;
} Patience;

static void coroutine_fn patience_entry(void *opaque)
{
    Patience *p = opaque;
    VHDX_LOCK_GUARD(p->s);

    p->ended = true;
    qemu_co_queue_restart_all(&p->s->requests->queue);
}

static void patience_ends(void *opaque)
{
    /*
     * Outside of a coroutine, waiters would wait again and be woken again.
     * Who is woken expects the context to be acquired, before 9.0.
     */
    aio_co_enter(qemu_get_current_aio_context(),
                 qemu_coroutine_create(patience_entry, opaque));
}

bool coroutine_fn vhdx_request_try_hold(BDRVVHDXState *s, int64_t ns)
{
    VHDXRequests *r = s->requests;
    Patience p = { .s = s };
    QEMUTimer *timer = aio_timer_new(qemu_get_current_aio_context(),
                                     QEMU_CLOCK_REALTIME, SCALE_NS,
                                     patience_ends, &p);
    uint64_t next;
    bool is_held;

    vhdx_lock(s);
    next = r->next_ticket;
    while (vhdx_request_oldest(s) < next) {
        vhdx_wait(s, &r->queue);
    }
    if (ns) {
        timer_mod(timer, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + ns);
    }
    assert(r->reserved && !r->frozen);
    r->frozen = true;
    while (!QTAILQ_EMPTY(&r->list) && !p.ended) {
        vhdx_wait(s, &r->queue);
    }
    is_held = QTAILQ_EMPTY(&r->list);
    if (is_held) {
        held(s);
    } else {
        r->frozen = false;
        qemu_co_queue_restart_all(&r->queue);
    }
    vhdx_unlock(s);
    timer_free(timer);
    return is_held;
}

void coroutine_fn vhdx_request_let_go(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    let_go(s);
}

void coroutine_fn vhdx_request_freeze(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    reserve(s);
    hold(s);
}

void coroutine_fn vhdx_request_thaw(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    let_go(s);
    unreserve(s);
}

bool vhdx_request_wanted(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->requests->turn != s->requests->next_turn;
}

bool vhdx_request_frozen(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->requests->frozen;
}

/* [freed-tickets] */
uint64_t vhdx_request_oldest(BDRVVHDXState *s)
{
    VHDXRequest *req = QTAILQ_FIRST(&s->requests->list);

    vhdx_assert_locked(s);
    return req ? req->ticket : s->requests->next_ticket;
}

uint64_t vhdx_request_next(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->requests->next_ticket;
}

VHDXAlloc *vhdx_request_alloc(BDRVVHDXState *s, uint64_t index)
{
    vhdx_assert_locked(s);
    return g_hash_table_lookup(s->requests->allocs, &index);
}

bool vhdx_request_allocates(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return g_hash_table_size(s->requests->allocs) > 0;
}

void vhdx_request_alloc_add(BDRVVHDXState *s, VHDXAlloc *alloc)
{
    vhdx_assert_locked(s);
    assert(alloc->refs && !alloc->detached);
    if (!g_hash_table_insert(s->requests->allocs, &alloc->index, alloc)) {
        g_assert_not_reached();
    }
}

void vhdx_request_alloc_detach(BDRVVHDXState *s, VHDXAlloc *alloc)
{
    vhdx_assert_locked(s);
    assert(!alloc->detached);
    alloc->detached = true;
    if (!g_hash_table_remove(s->requests->allocs, &alloc->index)) {
        g_assert_not_reached();
    }
}

void coroutine_fn vhdx_request_alloc_wait(BDRVVHDXState *s)
{
    vhdx_wait(s, &s->requests->alloc_queue);
}

void coroutine_fn vhdx_request_alloc_wake(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    qemu_co_queue_restart_all(&s->requests->alloc_queue);
}

void vhdx_request_alloc_offsets(BDRVVHDXState *s, GArray *offsets)
{
    GHashTableIter iter;
    VHDXAlloc *alloc;

    vhdx_assert_locked(s);
    g_hash_table_iter_init(&iter, s->requests->allocs);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&alloc)) {
        g_array_append_val(offsets, alloc->offset);
    }
}

bool vhdx_request_alloc_barrier(BDRVVHDXState *s)
{
    GHashTableIter iter;
    VHDXAlloc *alloc;

    vhdx_assert_locked(s);
    g_hash_table_iter_init(&iter, s->requests->allocs);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&alloc)) {
        if (alloc->barrier) {
            return true;
        }
    }
    return false;
}
