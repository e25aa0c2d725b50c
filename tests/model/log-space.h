/*
 * Places for blocks, the file's length, and how requests of guests go on.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_LOG_SPACE_H
#define MODEL_LOG_SPACE_H

#include "log.h"

/* -- What changes in memory -- */

static void change_note(void)
{
    m.changes++;
}

static void bat_set(int block, int entry)
{
    PAGE_SET(block, entry);
    PAGE_OF(block)->dirty = true;
    if (defect == MENDED_IN_PLACE) {    /* [log-first] */
        value_write(&m.disk.page[block], entry);
    }
}

/* Guests are alike: one begins only if those before it are at work. */
static bool guest_is_next(int guest)
{
    for (int g = 0; g < guest; g++) {
        if (!m.requests[g].active) {
            return false;
        }
    }
    return guest < guests && !m.requests[guest].active && m.ops && m.open &&
           !m.frozen && !m.broken;
}

static bool all_are_idle(void)
{
    for (int g = 0; g < guests; g++) {
        if (m.requests[g].active) {
            return false;
        }
    }
    return true;
}

/* -- Places -- */

/* Whether a request is still about that may use the place: [freed-tickets] */
static bool has_ticket(int place)
{
    for (int g = 0; g < guests; g++) {
        if (m.requests[g].active && m.requests[g].place == place + 1) {
            return defect != NO_TICKETS;
        }
    }
    return false;
}

static bool place_is_free(int place)
{
    return place >= 0 && place < places && place < m.size &&
           (m.places[place].state == FREE ||
            (m.places[place].state == COMMITTED && !has_ticket(place)));
}

static bool any_is_free(void)
{
    for (int p = 0; p < places; p++) {
        if (place_is_free(p)) {
            return true;
        }
    }
    return false;
}

/* Take a place; returns whether it is known to read as zeros. */
static bool place_take(int place)
{
    Place *p = &m.places[place];
    bool zero = p->zero && p->state == FREE;

    /* [zero-known] [freed-old] */
    if (defect == OLD_FOR_ZERO ||
        (defect == FREED_FOR_ZERO && p->state == COMMITTED)) {
        zero = true;
    }
    p->state = USED;
    p->zero = false;
    m.end = m.end > place + 1 ? m.end : place + 1;
    return zero;
}

/* A place whose block is gone is free when that is stable. */
static void place_release(int place, bool at_once)
{
    m.places[place].state = at_once ? COMMITTED : FREED;
    change_note();
}

/* What a place has is garbage to who gets it next. */
static void place_forget(Place *place)
{
    for (int i = 0; i < sectors; i++) {
        Values may = OLD | place->sector[i].since;

        place->sector[i] = (Cell) { .may = may, .now = OLD };
    }
}

/* All of it is written, in a write that has ended. */
static void place_write(int place, int i, Values value)
{
    cell_write(&m.places[place].sector[i], value);
    cell_written(&m.places[place].sector[i], value, 0);
}

/* A place that is free is punched, which no flush has made stable. */
static bool may_punch(int place)
{
    return is_kind(PUNCH) && m.open && !m.broken && place < m.size &&
           m.places[place].state == FREE &&
           m.places[place].sector[0].now != ZERO;
}

static void place_punch(int place)
{
    for (int i = 0; i < sectors; i++) {
        place_write(place, i, ZERO);
    }
}

/* -- The file's length -- */

static bool may_grow(void)
{
    return m.open && !m.grow_lock && !m.broken && m.size < places && m.ops &&
           !any_is_free();
}

static void size_set(int size)
{
    m.size = size;
    m.stable_size = m.stable_size < size ? m.stable_size : size;
}

/* What is gained reads as zeros. */
static void file_grow(void)
{
    Place *place = &m.places[m.size];

    place->state = FREE;
    place->zero = !m.no_zeroes;
    size_set(m.size + 1);
    value_write(&m.disk.length, m.size);
}

/* Where the last object ends by the map of what is free */
static int map_end(void)
{
    int end = m.size;

    while (end && place_is_free(end - 1)) {
        end--;
    }
    return end;
}

/* Nothing is taken behind @size from now on, where all is free. */
static void cut_begin_at(int size)
{
    size_set(size);
    for (int p = m.size; p < places; p++) {
        m.places[p].state = BEYOND;
        m.places[p].zero = false;
    }
    m.end = m.size;
}

/* Nothing is taken behind the last object from now on. */
static void cut_begin(void)
{
    cut_begin_at(map_end());
}

/* The file is cut; if it gets longer again there will be zeros. */
static void file_cut(void)
{
    for (int p = m.size; p < places; p++) {
        for (int i = 0; i < sectors; i++) {
            if (m.places[p].sector[i].may != ZERO) {
                place_write(p, i, ZERO);
            }
        }
    }
    value_write(&m.disk.length, m.size);
}

/* -- Finding places for blocks, and sharing them -- */

/* That place, if a request that writes there gets it: [shared-place] */
static Alloc *alloc_share(int block)
{
    return defect == TWO_PLACES ? NULL : alloc_of_block(block);
}

/* A block gets a place, which is known to be @zero or is a @hole or not. */
static Alloc *alloc_enter(int block, int place, bool zero, bool hole)
{
    Alloc *a = m.allocs;

    while (a->refs) {
        a++;
    }
    *a = (Alloc) { .block = block, .place = place, .zero = zero };
    a->phase = zero || defect == NOT_ZEROED ? READY : NEW;  /* [place-zeroed] */
    a->barrier = !zero;
    if (defect == HOLE_NO_BARRIER && hole) {    /* [data-barrier] */
        a->barrier = false;
    }
    if (defect == PUBLISHED_FIRST) {            /* [publish-last] */
        bat_set(block, place + 1);
        a->phase = PUBLISHED;
    }
    return a;
}

static Alloc *alloc_new(int block, int place)
{
    bool hole = m.places[place].sector[0].now == ZERO;

    return alloc_enter(block, place, place_take(place), hole);
}

/*
 * A place that no block has got is given back.  If a write there has begun
 * there may be anything.
 */
static void place_return(Place *place, bool zero, bool touched)
{
    if (!touched || (defect == TOUCHED_FOR_ZERO && zero)) { /* [touched-old] */
        place->state = FREE;
        place->zero = zero;
    } else {
        place->state = COMMITTED;
    }
    if (touched) {
        place_forget(place);
    }
}

static void alloc_unref(Request *r)
{
    Alloc *a = &m.allocs[r->alloc - 1];

    if (r->alloc && --a->refs == 0) {
        if (a->phase != PUBLISHED) {
            place_return(&m.places[a->place], a->zero, a->touched);
        }
        memset(a, 0, sizeof(*a));
    }
    r->alloc = 0;
}

/* -- Requests -- */

static void data_begin(int guest)
{
    Request *r = &m.requests[guest];

    r->writing = true;
    if (r->alloc) {
        m.allocs[r->alloc - 1].touched = true;
    }
    for (int i = 0; i < sectors; i++) {
        if (r->mask >> i & 1) {
            cell_write(&m.places[r->place - 1].sector[i], r->value);
        }
    }
}

/* A value that nothing has, so that states are alike again when it is gone */
static Values value_new(void)
{
    Values used = 0, value = FIRST_WRITE;

    for (int i = 0; i < sectors; i++) {
        for (int g = 0; g < guests; g++) {
            used |= m.requests[g].value | m.requests[g].saw[i] |
                    m.requests[g].beside[i];
        }
        for (int b = 0; b < blocks; b++) {
            used |= cell_values(&m.guest[b][i]);
        }
        for (int p = 0; p < places; p++) {
            used |= cell_values(&m.places[p].sector[i]);
        }
    }
    while (used & value) {
        value <<= 1;
    }
    assert(value);
    return value;
}

/* Blocks are alike at first: the first request is to the first one. */
static bool may_write(int guest, int block, int mask, int place)
{
    if (!is_kind(WRITE) || block >= blocks || mask >= 1 << sectors ||
        !guest_is_next(guest)) {
        return false;
    }
    if (m.pages[block].now || alloc_share(block)) {
        return place < 0;
    }
    return place_is_free(place);
}

static void write_begin(int guest, int block, int mask, int place)
{
    Request *r = &m.requests[guest];
    Alloc *a = NULL;

    *r = (Request) {
        .active = true, .kind = WRITE, .block = block, .mask = mask,
        .value = value_new(),
    };
    m.ops--;
    for (int i = 0; i < sectors; i++) {
        if (mask >> i & 1) {
            cell_write(&m.guest[block][i], r->value);
        }
    }
    if (m.pages[block].now) {
        r->place = m.pages[block].now;
    } else {
        a = place < 0 ? alloc_share(block) : alloc_new(block, place);
        a->refs++;
        r->alloc = a - m.allocs + 1;
        r->place = a->place + 1;
    }
    if (!a || a->phase >= READY) {
        data_begin(guest);
    } else if (a->phase == NEW) {
        a->phase = PREPARING;
        r->zeroing = true;
        for (int i = 0; i < sectors; i++) {
            cell_write(&m.places[a->place].sector[i], ZERO);
        }
    }
}

/* Its place has been zeroed. */
static void place_zeroed(int guest)
{
    Request *r = &m.requests[guest];

    m.allocs[r->alloc - 1].phase = READY;
    r->zeroing = false;
    for (int i = 0; i < sectors; i++) {
        cell_written(&m.places[r->place - 1].sector[i], ZERO, 0);
    }
    data_begin(guest);
}

/* A request ends: what was under way beside it may have won over it. */
static void request_end(int guest)
{
    Request *r = &m.requests[guest];

    alloc_unref(r);
    guest_written(r);
    memset(r, 0, sizeof(*r));
}

static void alloc_publish(Alloc *a)
{
    bat_set(a->block, a->place + 1);
    a->phase = PUBLISHED;
    m.order |= a->barrier;
}

/* The first whose data is written publishes the block. */
static void write_end(int guest, bool failed)
{
    Request *r = &m.requests[guest];
    Alloc *a = r->alloc ? &m.allocs[r->alloc - 1] : NULL;

    r->failed |= failed;
    m.fails -= failed;
    data_written(r);
    if (a && !failed && a->phase != PUBLISHED) {
        alloc_publish(a);
    } else if (a && failed && a->phase == PUBLISHED && !a->detached &&
               defect == PUBLISHED_UNDONE) {    /* [published-kept] */
        bat_set(r->block, 0);
    }
    if (defect != NOT_COUNTED &&
        !(a && a->early && defect == EARLY_NOT_COUNTED)) {
        change_note();                  /* [change-counted] */
    }
    request_end(guest);
}

/*
 * What is written to a block that is new may fail, and be there all the same
 * if another write publishes the block: so zeros go there, too.
 */
static void alloc_zero(int guest, const Alloc *a)
{
    Request *r = &m.requests[guest];

    if (a && a->touched && defect != FAILED_LEFT) {     /* [failed-zeroed] */
        r->place = a->place + 1;
        data_begin(guest);
        data_written(r);
    }
}

/* A block whose place is @place gives that up, so it is all zeros. */
static void block_free(int block, int place)
{
    Alloc *a = alloc_of_block(block);

    /* It is still being written to: later writes go elsewhere. */
    if (a && defect != FREED_SHARED) {      /* [freed-detached] */
        a->detached = true;
    }
    bat_set(block, 0);
    place_release(place, defect == FREED_AT_ONCE);  /* [freed-wait] */
}

/* The block reads as zeros at once; a place that it had is free later. */
static void discard(int guest, int block)
{
    Request *r = &m.requests[guest];
    int place = m.pages[block].now - 1;

    *r = (Request) {
        .active = true, .kind = DISCARD, .block = block,
        .mask = (1 << sectors) - 1, .value = ZERO,
    };
    m.ops--;
    for (int i = 0; i < sectors; i++) {
        cell_write(&m.guest[block][i], ZERO);
    }
    if (place >= 0) {
        block_free(block, place);
    } else {
        alloc_zero(guest, alloc_of_block(block));
    }
    request_end(guest);
}

/* As compacting does: a block gets another place, while no request runs. */
static bool may_move(int guest, int block, int place)
{
    return is_kind(MOVE) && guest_is_next(guest) && block < blocks &&
           m.pages[block].now && place_is_free(place) &&
           (all_are_idle() || defect == MOVED_UNFROZEN);  /* [move-frozen] */
}

static void block_move(int block, int from, int place)
{
    if (defect != MOVED_UNFLUSHED) {    /* [move-barrier] */
        m.order = true;
    }
    bat_set(block, place + 1);
    place_release(from, defect == MOVED_FREED_AT_ONCE);  /* [freed-wait] */
}

static void move(int block, int place)
{
    int from = m.pages[block].now - 1;

    m.ops--;
    place_take(place);
    for (int i = 0; i < sectors; i++) {
        place_write(place, i, m.places[from].sector[i].now);
    }
    block_move(block, from, place);
}

#endif
