/*
 * Steps of a trace that have to do with places and the file's length: places
 * that blocks get and leave, growth and cuts.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_TRACE_FILE_H
#define MODEL_TRACE_FILE_H

#include "trace-log.h"

/* -- Places -- */

/* A piece of the file, in places */
typedef struct Range {
    int from, to;
} Range;

static Range range(uint64_t offset, uint64_t bytes)
{
    Range r = { offset / MIB, (offset + bytes + MIB - 1) / MIB };

    if (r.to > PLACES) {
        give_up("more than %d MiB", PLACES);
    }
    return r;
}

/* @range, which is to be taken, must be free. */
static void range_is_free(Range r)
{
    for (int p = r.from; p < r.to; p++) {
        const Place *place = &m.places[p];

        RULE(place->state != USED, "shared-place",
             "place %d is given away, and is not free", p);
        RULE(place->state != FREED && place->state != COMMITTING, "freed-wait",
             "place %d is given away, and that it is free is not stable", p);
        RULE(place->state != COMMITTED || !has_ticket(p), "freed-tickets",
             "place %d is given away, and a request is still about", p);
        RULE(place_is_free(p), "cut-announced",
             "place %d is given away, and the file ends before", p);
    }
}

/* The place that some block is getting, which place @p is a part of, or NULL */
static Alloc *alloc_at(int p)
{
    for (Alloc *a = m.allocs; a < m.allocs + ALLOCS; a++) {
        if (a->refs && p - (int)a->place >= 0 &&
            p - (int)a->place < t.image.per_block) {
            return a;
        }
    }
    return NULL;
}

static void alloc_begins(int index, uint64_t offset, bool zero)
{
    int place = offset / MIB;
    Alloc *a;

    RULE(t.taken == place, "shared-place",
         "a block gets a place that was not taken for it");
    RULE(!alloc_of_block(index), "shared-place",
         "a block gets a second place, and is getting place %u",
         alloc_of_block(index)->place);
    RULE(t.taken_zero || !zero, "zero-known",
         "a place is taken for zeros, and is not known to be");
    a = alloc_enter(index, place, zero, false);
    a->refs = 1;
    t.taken = 0;
    t.prepared[a - m.allocs] = 0;
    t.written[a - m.allocs] = false;
    t.touched_at[a - m.allocs] = 0;
}

/* So much of its place is zeros, as it has been written or was a hole. */
static void alloc_zeroed(Alloc *a, uint64_t bytes)
{
    uint64_t *prepared = &t.prepared[a - m.allocs];
    uint64_t offset = a->place * MIB, all = t.image.block_size;

    *prepared += bytes;
    all = offset + all > t.size ? t.size - offset : all;
    if (*prepared >= all) {
        a->phase = READY;
    }
}

static void alloc_published(int index, uint64_t offset)
{
    Alloc *a = alloc_at(offset / MIB);

    RULE(a && a->block == index && a->place == offset / MIB, "publish-last",
         "a block is published that has not got the place");
    RULE(a->phase == READY && (t.written[a - m.allocs] || t.early),
         "publish-last", "a block is published before there is data in it");
    RULE(t.written[a - m.allocs] || !a->barrier, "early-zero",
         "a block is published beside its data, and its place may not read as "
         "zeros");
    RULE(a->touched, "early-published",
         "a block is published to which nobody writes");
    RULE(!block_place(index), "shared-place",
         "a block is published twice, and has place %d",
         block_place(index) - 1);
    alloc_publish(a);
    memset(a, 0, sizeof(*a));
}

static void range_returned(uint64_t offset, uint64_t bytes, bool touched)
{
    Range r = range(offset, bytes);
    Alloc *a = alloc_at(r.from);

    RULE(!a || !a->touched || touched, "touched-old",
         "a place is given back as if no write had begun there");
    for (int p = r.from; p < r.to; p++) {
        if (m.places[p].state == USED) {
            place_return(&m.places[p], a ? a->zero : r.from == t.taken &&
                         t.taken_zero, touched);
        }
    }
    if (a) {
        memset(a, 0, sizeof(*a));
    }
}

/* The block at @place is not there any more: so are its places behind that. */
static void block_left(int place)
{
    for (int p = place; p < place + t.image.per_block; p++) {
        if (p > place) {
            place_release(p, false);
        }
        t.freed_at[p] = line_number;
    }
}

static void block_freed(uint64_t block, uint64_t offset)
{
    int index = block + block / t.image.ratio, place = offset / MIB;

    RULE(block_place(index) == place + 1, "freed-wait",
         "a block is freed that is elsewhere");
    block_free(index, place);
    block_left(place);
}

/* A block gets another place; with @to 0 it has none any more. */
static void block_moved(int index, uint64_t from, uint64_t to)
{
    int place = from / MIB;

    RULE(m.frozen, "move-frozen", "a block moves while requests run");
    RULE(block_place(index) == place + 1, "freed-wait",
         "a block is moved that is elsewhere");
    if (to) {
        block_move(index, place, to / MIB);
    } else {
        block_free(index, place);
    }
    block_left(place);
}

static void range_taken(uint64_t offset, uint64_t bytes, bool zero)
{
    Range r = range(offset, bytes);
    bool known = true;

    range_is_free(r);
    for (int p = r.from; p < r.to; p++) {
        known &= place_take(p);
    }
    RULE(known || !zero, "zero-known",
         "a place is taken for zeros, and is not known to be");
    t.taken = r.from;
    t.taken_zero = zero;
}

static void range_punched(uint64_t offset, uint64_t bytes)
{
    Range r = range(offset, bytes);

    range_is_free((Range) { r.from, r.to < m.size ? r.to : m.size });
    t.punch_from = r.from;
    t.punch_to = r.to;
}

/* -- The file's length -- */

/* The file has @bytes bytes, which nobody has made sure of. */
static void size_learn(uint64_t bytes)
{
    int size = bytes / MIB;

    for (int p = m.size; p < size; p++) {
        m.places[p].state = m.places[p].state == USED ? USED : FREE;
        m.places[p].zero = false;
    }
    for (int p = size; p < m.size; p++) {
        m.places[p].zero = false;
    }
    size_set(size);
}

static void file_grows(uint64_t bytes, int ret)
{
    int size = bytes / MIB;

    if (ret < 0) {
        size_learn(t.size);
        return;
    }
    while (m.size < size) {
        file_grow();
    }
}

static void truncate_begins(uint64_t bytes)
{
    const Entry *newest = &m.disk.slot[slot_at(m.ring.head - 1)].stable;

    if (bytes >= t.size) {
        RULE(bytes == t.size || !t.cut, "cut-stable",
             "the file grows again, and that it was cut is not stable");
        return;
    }
    for (int p = (bytes + MIB - 1) / MIB; p < m.size; p++) {
        RULE(m.places[p].state != USED, "shared-place",
             "the file is cut, and place %d is not free", p);
        RULE(place_is_free(p) || m.places[p].state == BEYOND, "freed-wait",
             "the file is cut, and that place %d is free is not stable", p);
    }
    RULE(!m.replaying || !header_now()->log, "cut-announced",
         "the file is cut before the replay");
    if (!m.open) {
        return;
    }
    RULE(m.ring.stable == m.ring.sequence &&
         newest->tail == slot_at(m.ring.head - 1), "cut-announced",
         "the file is cut, and no stable entry says so");
    RULE(newest->flushed <= bytes / MIB && newest->last * MIB <= bytes,
         "cut-announced", "the file is cut to %" PRIu64 " bytes, and the log "
         "says that it has %u and %u MiB", bytes, newest->flushed,
         newest->last);
}

static void truncate_ends(uint64_t asked, uint64_t before, int ret)
{
    if (t.size < before || (ret < 0 && asked < before)) {
        t.cut |= ret == 0;
        size_learn(t.size);
    } else if (!m.open || m.unsure) {
        size_learn(t.size);
    }
    if (ret == 0 && asked == t.size) {
        m.unsure = false;
    }
}

static void cut_begins(uint64_t bytes)
{
    RULE(bytes / MIB >= map_end(), "freed-wait",
         "the file is to be cut to %" PRIu64 " bytes, and place %d is not free",
         bytes, map_end() - 1);
    cut_begin_at(bytes / MIB);
}

static void cut_is_undone(uint64_t bytes)
{
    size_learn(bytes);
}

#endif
