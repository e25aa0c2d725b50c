/*
 * How requests to a child begin, find or share places for blocks, and write
 * their data.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_OPS_ALLOC_H
#define MODEL_OPS_ALLOC_H

#include "ops.h"

/* -- Places -- */

/* The allocation that a write to @block shares, or NULL */
static Alloc *alloc_find(int block)
{
    Alloc *a = alloc_of_block(block);
    bool absent = entry_state(bat_get(block)) == NOT_PRESENT;

    if (a && a->phase != PUBLISHED && a->partial != absent &&
        defect != ZERO_TO_PARTIAL) {  /* [zeros-whole] */
        return NULL;
    }
    return a;
}

/* Whether a request is still about that may use the place */
static bool has_ticket(int place)
{
    for (int g = 0; g < guests; g++) {
        if (m.requests[g].active && m.requests[g].place == place + 1) {
            return defect != NO_TICKETS;  /* [freed-tickets] */
        }
    }
    return false;
}

/* Whether there is something to write for a request */
static bool request_writes(int kind, int block, int mask)
{
    int e = bat_get(block);
    bool here = entry_state(e) == FULLY_PRESENT ||
                (entry_state(e) == PARTIALLY_PRESENT &&
                 bits_of(m.pages[BITS].now, block) & mask);

    switch (kind) {
    case DISCARD_PART:
        return here;
    case ZERO_PART:
        return entry_state(e) != ZEROS;
    default:
        return true;
    }
}

/* Whether a write can go on with @place, or without a new one if that is -1 */
static bool alloc_may_get(int kind, int block, int mask, int place)
{
    if (!request_writes(kind, block, mask) || is_present(bat_get(block)) ||
        alloc_find(block)) {
        return place < 0;
    }
    return place >= 0 && place < places &&
           (m.places[place].state == FREE ||
            (m.places[place].state == COMMITTED && !has_ticket(place)));
}

static bool request_may_begin(int guest, int kind, int block, int mask,
                              int place)
{
    bool part = mask != WHOLE;

    if (kind != ZERO_WHOLE && !alloc_may_get(kind, block, mask, place)) {
        return false;
    }
    if (!(kinds >> kind & 1) || block >= blocks || !guest_is_next(guest) ||
        is_beside_copy(kind, block, mask)) {
        return false;
    }
    switch (kind) {
    case ZERO_WHOLE:
        return !part;
    case COPY_ON_READ:
        return part && entry_state(bat_get(block)) != ZEROS &&
               entry_state(bat_get(block)) != FULLY_PRESENT &&
               (entry_state(bat_get(block)) == NOT_PRESENT ||
                !(bits_of(m.pages[BITS].now, block) & mask));
    case ZERO_PART:
    case DISCARD_PART:
        return part;
    default:
        return true;
    }
}

static Alloc *alloc_new(int block, int place)
{
    Alloc *a = alloc_of_block(block);
    bool absent = entry_state(bat_get(block)) == NOT_PRESENT;
    bool zero = m.places[place].zero &&
                m.places[place].state == FREE;

    if (a) {
        a->detached = true;
    }
    for (a = m.allocs; a->refs; a++) {
        ;
    }
    *a = (Alloc) { .block = block, .place = place };
    a->partial = absent || defect == ZERO_TO_PARTIAL;
    /* [place-zeroed] */
    a->phase = zero || a->partial || defect == NOT_ZEROED ? READY : NEW;
    /* [bits-barrier] */
    a->barrier = !zero || (a->partial && defect != KNOWN_ZERO_NO_BARRIER);
    m.places[place].state = USED;
    return a;
}

static void data_write(int guest)
{
    Request *r = &m.requests[guest];
    Place *place = &m.places[r->place - 1];

    r->writing = true;
    place->zero = false;
    for (int i = 0; i < SECTORS; i++) {
        if (r->mask >> i & 1) {
            cell_write(&place->sector[i], r->value);
        }
    }
}

/*
 * A request has found its place.  It begins to write, unless the place is to be
 * zeroed before, by itself or another one.
 */
static void data_begin(int guest, Alloc *a)
{
    if (!a || a->phase >= READY) {
        data_write(guest);
        return;
    }
    if (a->phase == NEW) {
        a->phase = PREPARING;
        m.requests[guest].zeroing = true;
        for (int i = 0; i < SECTORS; i++) {
            cell_write(&m.places[a->place].sector[i], ZERO);
        }
    }
}

/* The place is zeroed. */
static void alloc_prepared(int guest)
{
    Alloc *a = &m.allocs[m.requests[guest].alloc - 1];

    a->phase = READY;
    m.requests[guest].zeroing = false;
    for (int i = 0; i < SECTORS; i++) {
        cell_written(&m.places[a->place].sector[i], ZERO, 0);
    }
    data_write(guest);
}

static void alloc_get(int guest, int place)
{
    Request *r = &m.requests[guest];
    Alloc *a = NULL;

    r->lost = false;
    if (is_present(bat_get(r->block))) {
        r->place = entry_place(bat_get(r->block)) + 1;
    } else {
        a = place < 0 ? alloc_find(r->block) : alloc_new(r->block, place);
        a->refs++;
        r->alloc = a - m.allocs + 1;
        r->place = a->place + 1;
    }
    data_begin(guest, a);
}

/* A value that nothing has, so that states are alike again when it is gone */
static Values value_new(void)
{
    Values used = 0, value = FIRST_WRITE;

    for (int g = 0; g < GUESTS; g++) {
        used |= m.requests[g].value;
        for (int i = 0; i < SECTORS; i++) {
            used |= m.requests[g].saw[i] | m.requests[g].beside[i];
        }
    }
    for (int i = 0; i < SECTORS; i++) {
        for (int b = 0; b < BLOCKS; b++) {
            used |= cell_values(&m.guest[b][i]) | cell_values(&m.parent[b][i]);
        }
        for (int p = 0; p < PLACES; p++) {
            used |= cell_values(&m.places[p].sector[i]);
        }
    }
    while (used & value) {
        value <<= 1;
    }
    assert(value);
    return value;
}

/*
 * A request begins, and finds its place.  One that has nothing to write ends at
 * once.
 */
static void request_begin(int guest, int kind, int block, int mask, int place)
{
    Request *r = &m.requests[guest];

    *r = (Request) {
        .active = true, .kind = kind, .block = block, .mask = mask,
        .value = ZERO,
    };
    m.ops--;
    if (kind == WRITE) {
        r->value = value_new();
    }
    if (kind == COPY_ON_READ) {
        r->value = m.parent[block][mask >> 1].now;
    }
    for (int i = 0; i < SECTORS; i++) {
        if (mask >> i & 1 && kind != COPY_ON_READ) {
            cell_write(&m.guest[block][i], r->value);
        }
    }
    if (request_writes(kind, block, mask) && kind != ZERO_WHOLE) {
        alloc_get(guest, place);
    } else if (kind != ZERO_WHOLE) {
        request_end(guest);
    }
}

#endif
