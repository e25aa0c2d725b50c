/*
 * What requests to a child change in memory when their data has been written,
 * or without any.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_OPS_PUBLISH_H
#define MODEL_OPS_PUBLISH_H

#include "ops-alloc.h"

/*
 * As child_still(): 1, 0 if there is nothing left to tell of what was written,
 * -1 if it is lost.
 */
static int child_still(int e, const Request *r, const Alloc *a)
{
    bool absent = entry_state(e) == NOT_PRESENT;

    if (a) {
        return (a->detached || is_present(e) || absent != a->partial) &&
               /* [write-overtaken] */
               defect != NOT_LOOKED_AGAIN && defect != ZERO_TO_PARTIAL ? -1 : 1;
    }
    if (defect == FREED_COMES_BACK) {  /* [write-overtaken] */
        return entry_state(e) != FULLY_PRESENT;
    }
    return entry_state(e) == PARTIALLY_PRESENT &&
           /* [write-overtaken] */
           (entry_place(e) == r->place - 1 || defect == PLACE_NOT_COMPARED);
}

/* As child_publish_part() and vhdx_bitmap_set() */
static void child_publish_part(Request *r, Alloc *a)
{
    uint16_t bits = m.pages[BITS].now;
    bool clear = a || defect == SECOND_CLEARS;  /* [bits-cleared] */
    bool full;

    if (clear && defect != BITS_NOT_CLEARED) {
        bits &= ~(WHOLE << r->block * SECTORS);
    }
    bits |= r->mask << r->block * SECTORS;
    /* [bits-full] */
    full = !a && (bits_of(bits, r->block) == WHOLE || defect == FULL_TOO_EARLY);
    page_set(BITS, bits);
    if (!m.pages[BITMAP_ENTRY].now) {
        page_set(BITMAP_ENTRY, FULLY_PRESENT);
    }
    if (a || full || defect == FREED_COMES_BACK) {
        bat_set(r->block, full ? FULLY_PRESENT : PARTIALLY_PRESENT,
                r->place - 1);
    }
}

/* As vhdx_alloc_child_publish(): what has been written can be seen. */
static void child_publish(int guest)
{
    Request *r = &m.requests[guest];
    Alloc *a = r->alloc ? &m.allocs[r->alloc - 1] : NULL;
    int still;

    if (r->kind == DISCARD_PART ||
        /* [zeros-whole] */
        (r->kind == ZERO_PART && defect == ZERO_WITHOUT_BITS)) {
        return;
    }
    if (a && a->phase == PUBLISHED) {
        a = NULL;
    }
    still = child_still(bat_get(r->block), r, a);
    if (still < 0) {
        alloc_unref(r);
        r->place = 0;
        r->lost = true;
    }
    if (still <= 0) {
        return;
    }
    if (r->mask == WHOLE || (a && !a->partial)) {
        bat_set(r->block, FULLY_PRESENT, r->place - 1);
    } else {
        child_publish_part(r, a);
    }
    m.order |= a ? a->barrier : true;
    if (a) {
        a->phase = PUBLISHED;
    }
}

/* The request's data has been written: it ends, or begins again. */
static void request_written(int guest)
{
    data_written(&m.requests[guest]);
    child_publish(guest);
    if (!m.requests[guest].lost) {
        request_end(guest);
    }
}

/* Whether a write that was lost has nothing left to do */
static bool request_is_over(int guest)
{
    Request *r = &m.requests[guest];

    return r->lost && !request_writes(r->kind, r->block, r->mask);
}

static bool request_may_go_on(int guest, int place)
{
    Request *r = &m.requests[guest];

    return r->lost && alloc_may_get(r->kind, r->block, r->mask, place) &&
           !request_is_over(guest);
}

/* It finds none, but a commit lets freed ones be used: it does that itself. */
static bool request_lacks_space(int guest)
{
    for (int p = -1; p < places; p++) {
        if (request_may_go_on(guest, p)) {
            return false;
        }
    }
    return m.requests[guest].lost && !request_is_over(guest) &&
           !m.commit_lock;
}

/* The block reads as zeros at once; a place that it had is free later. */
static void zero_whole(int guest)
{
    int block = m.requests[guest].block;
    Alloc *a = alloc_of_block(block);
    int e = bat_get(block);

    if (a && (is_present(e) || entry_state(e) == NOT_PRESENT)) {
        a->detached = true;
    }
    if (is_present(e)) {
        m.places[entry_place(e)].state =
            defect == FREED_AT_ONCE ? COMMITTED : FREED;  /* [freed-wait] */
    }
    /* [zeros-whole] */
    if (entry_state(e) != NOT_PRESENT || defect != ZERO_OVER_ABSENT) {
        bat_set(block, ZEROS, 0);
    }
}

#endif
