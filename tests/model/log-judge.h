/*
 * What a guest may see, now and after a cut at this moment, and how it begins.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_LOG_JUDGE_H
#define MODEL_LOG_JUDGE_H

#include "log-replay.h"
#include "log-life.h"

/* What is wrong; not part of the state */
static char wrong[120];

/* Whether a sector that shows @values has only what is in @allowed */
static bool sector_is_right(const char *when, int block, int i, Values values,
                            Values allowed)
{
    Values bad = values & ~allowed;

    if (!bad) {
        return true;
    }
    snprintf(wrong, sizeof(wrong), "%s sector %d of block %d shows %s", when, i,
             block, bad & OLD ? "garbage" : bad & ZERO ? "zeros" :
             "data of another moment or block");
    return false;
}

/* What @block shows, whose entry is @entry; behind @length are zeros. */
static Values sector_shown(int entry, int i, int length, bool now)
{
    Cell *cell = &m.places[entry - 1].sector[i];

    if (!entry || entry > length) {
        return ZERO;
    }
    return now ? cell->now | flying_in(entry - 1, i) : cell->may;
}

/* Whether all is right after a cut that leaves @image */
static bool image_is_right(const Image *image)
{
    const Found *found = image_find(image);

    if (found->wrong) {
        snprintf(wrong, sizeof(wrong), "after a cut %s", found->wrong);
        return false;
    }
    for (int b = 0; b < blocks; b++) {
        for (int i = 0; i < sectors; i++) {
            Values seen = sector_shown(found->page[b], i, image->length, false);

            if (!sector_is_right("after a cut", b, i, seen,
                                 m.guest[b][i].may)) {
                return false;
            }
        }
    }
    return true;
}

/*
 * Whether something is wrong in this state.  While nothing is written, after a
 * flush that failed, storage may have dropped anything, and reads show that.
 */
static bool is_wrong(void)
{
    for (int b = 0; b < blocks && !m.broken; b++) {
        for (int i = 0; i < sectors; i++) {
            if (!sector_is_right("a read of", b, i,
                                 sector_shown(m.pages[b].now, i, places, true),
                                 m.guest[b][i].now | flying_to(b, i))) {
                return true;
            }
        }
    }
    return !survivals(&m.disk, image_is_right);
}

/* -- The beginning -- */

/*
 * The log is open, and empty; or has a block in an entry that is not in place;
 * or is not open: closed, with another's entries there yet, and one header copy
 * damaged; or left by a crash, with a tail that is not known to be zero.
 */
enum { EMPTY, HALF_FULL, CLOSED, CRASHED, STARTS };

static const char *const start_names[] = {
    "empty", "half-full", "closed", "crashed",
};

/* The file is @length places long.  The first may hold anything. */
static void places_start(int length, bool zero)
{
    for (int p = 0; p < PLACES; p++) {
        Place *place = &m.places[p];

        place->state = p < length ? FREE : BEYOND;
        place->zero = p > 0 && p < length && zero;
        for (int i = 0; i < SECTORS; i++) {
            cell_set(&place->sector[i],
                     p >= length || place->zero ? ZERO : OLD);
        }
    }
    m.size = m.stable_size = m.end = length;
    cell_set(&m.disk.length, 1 << length);
}

/* The first block is in the first place, which only the log tells. */
static void block_start(void)
{
    m.places[0].state = USED;
    m.pages[0].now = 1;
    for (int i = 0; i < sectors; i++) {
        cell_set(&m.places[0].sector[i], FIRST_WRITE);
        cell_set(&m.guest[0][i], FIRST_WRITE);
    }
}

/* The log has this many entries, the last of them with the first block. */
static void log_start(int entries, bool block)
{
    m.ring = (Ring) {
        .log = 1, .sequence = entries, .head = entries, .used = entries,
        .stable = entries,
    };
    for (int i = 0; i < entries; i++) {
        m.disk.slot[i].stable = (Entry) {
            .log = 1, .sequence = i + 1, .flushed = m.size, .last = m.size,
        };
    }
    if (block) {
        m.disk.slot[entries - 1].stable.page[0] = 2;
    }
}

static void model_start(int start)
{
    int length = model_option("length", places);
    bool block = start == HALF_FULL || start == CRASHED;
    bool open = start == EMPTY || start == HALF_FULL;

    memset(&m, 0, sizeof(m));
    m.ops = model_option("ops", 4);
    m.fails = model_option("fails", 0);
    m.flush_fails = model_option("flush-fails", 0);
    m.closes = model_option("closes", 1);
    m.cuts = model_option("cuts", 1);
    m.open = open;
    places_start(length, open);
    for (int b = 0; b < BLOCKS; b++) {
        cell_set(&m.disk.page[b], 1);
        for (int i = 0; i < SECTORS; i++) {
            cell_set(&m.guest[b][i], ZERO);
        }
    }
    if (block) {
        block_start();
    }
    log_start(block ? 2 : 1, block);
    for (int i = 0; i < 2; i++) {
        m.disk.header[i].stable.sequence = 2 - i;
        m.disk.header[i].stable.log = start != CLOSED;
    }
    m.sequence = 2;
    if (start == HALF_FULL) {
        m.pages[0].logged = 1;
        m.pages[0].in_log = true;
    } else if (start == CLOSED) {
        m.disk.header[1].stable.sequence = 0;
        m.disk.slot[1].stable = (Entry) {
            .log = 1, .sequence = 2, .page[0] = 2,
        };
    }
}

/* What MODEL and DEFECT say */
static void options_read(void)
{
    defect = model_defect(defect_names,
                          sizeof(defect_names) / sizeof(*defect_names));
    guests = model_option("guests", 2);
    blocks = model_option("blocks", 2);
    sectors = model_option("sectors", 1);
    places = model_option("places", 3);
    slots = model_option("slots", 4);
    per_entry = model_option("per-entry", BLOCKS);
    kinds = model_set("kinds", kind_names, KINDS);
    starts = model_set("starts", start_names, STARTS);
}

#endif
