/*
 * What a child's guest may see, now and after a cut at this moment.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_OPS_JUDGE_H
#define MODEL_OPS_JUDGE_H

#include "ops-commit.h"
#include "ops-publish.h"

/* What is wrong; not part of the state */
static char wrong[120];

static const char *value_name(Values values)
{
    return values & OLD ? "garbage" :
           values & PARENT ? "the parent's" :
           values & ZERO ? "zeros" : "data of another moment or block";
}

/* Whether a sector that shows @values has only what is in @allowed */
static bool sector_is_right(const char *when, int block, int i, Values values,
                            Values allowed)
{
    if (!(values & ~allowed)) {
        return true;
    }
    snprintf(wrong, sizeof(wrong), "%s sector %d of block %d shows %s", when, i,
             block, value_name(values & ~allowed));
    return false;
}

/* What a replay finds of a page if @survive pages of the commit are there */
static int page_versions(int i, int survive, uint16_t *versions)
{
    Page *page = &m.pages[i];

    for (int n = 0; n < survive; n++) {
        if (commit_page(n) == i && page->taken) {
            versions[0] = page->committing;
            return 1;
        }
    }
    versions[0] = page->in_log ? page->logged : page->place;
    versions[1] = page->put;
    return page->is_put && !page->in_log ? 2 : 1;
}

/* Whether the disk reads right after a cut that left these pages */
static bool cut_is_right(uint16_t bits, uint16_t entries, uint16_t bitmap)
{
    for (int b = 0; b < blocks; b++) {
        int e = entry(entries, b), state = entry_state(e);

        if (state == PARTIALLY_PRESENT && bitmap != FULLY_PRESENT) {
            snprintf(wrong, sizeof(wrong), "after a cut block %d is partially "
                     "present, and there is no sector bitmap", b);
            return false;
        }
        for (int i = 0; i < SECTORS; i++) {
            bool here = state == FULLY_PRESENT ||
                        (state == PARTIALLY_PRESENT &&
                         bits_of(bits, b) >> i & 1);
            Values seen = state == ZEROS ? ZERO :
                          here ? m.places[entry_place(e)].sector[i].may :
                          m.parent[b][i].may;

            if (!sector_is_right("after a cut", b, i, seen,
                                 m.guest[b][i].may)) {
                return false;
            }
        }
    }
    return true;
}

/* Whether that holds for all that @survive pages of the commit leave */
static bool cuts_are_right(int survive)
{
    uint16_t bits[2], entries[2], bitmap[2];
    int nbits = page_versions(BITS, survive, bits);
    int nentries = page_versions(ENTRIES, survive, entries);
    int nbitmap = page_versions(BITMAP_ENTRY, survive, bitmap);

    for (int i = 0; i < nbits * nentries * nbitmap; i++) {
        if (!cut_is_right(bits[i % nbits], entries[i / nbits % nentries],
                          bitmap[i / nbits / nentries])) {
            return false;
        }
    }
    return true;
}

/* Whether something is wrong in this state */
static bool is_wrong(void)
{
    for (int b = 0; b < blocks; b++) {
        for (int i = 0; i < SECTORS; i++) {
            if (!sector_is_right("a read of", b, i, read_now(b, i),
                                 m.guest[b][i].now | flying_to(b, i))) {
                return true;
            }
        }
    }
    for (int survive = 0; survive <= m.written; survive++) {
        if (!cuts_are_right(survive)) {
            return true;
        }
    }
    return false;
}

/* -- The beginning -- */

static void page_start(int page, uint16_t value)
{
    m.pages[page].now = m.pages[page].place = value;
}

/*
 * An image as another program may leave it: without a sector bitmap; with one
 * that is full of stale bits; with a block that has its second sector in the
 * parent, or that reads as zeros, besides.
 */
static void image_start(int start)
{
    int all = (1 << BLOCKS * SECTORS) - 1;

    memset(&m, 0, sizeof(m));
    m.ops = model_option("ops", 4);
    for (int b = 0; b < BLOCKS; b++) {
        for (int i = 0; i < SECTORS; i++) {
            cell_set(&m.parent[b][i], PARENT);
            cell_set(&m.guest[b][i],
                     start == READS_ZEROS && b == 0 ? ZERO : PARENT);
        }
    }
    for (int p = 0; p < PLACES; p++) {
        m.places[p].zero = p == 1;
        for (int i = 0; i < SECTORS; i++) {
            cell_set(&m.places[p].sector[i], p == 1 ? ZERO : OLD);
        }
    }
    page_start(BITS, start == PARTLY_HERE ? all & ~2 : all);
    page_start(BITMAP_ENTRY, start == NO_BITMAP ? 0 : FULLY_PRESENT);
    if (start == PARTLY_HERE) {
        page_start(ENTRIES, PARTIALLY_PRESENT);
        m.places[0].state = USED;
        cell_set(&m.places[0].sector[0], FIRST_WRITE);
        cell_set(&m.guest[0][0], FIRST_WRITE);
    } else if (start == READS_ZEROS) {
        page_start(ENTRIES, ZEROS);
    }
}

/* What MODEL and DEFECT say */
static void options_read(void)
{
    defect = model_defect(defect_names,
                          sizeof(defect_names) / sizeof(*defect_names));
    guests = model_option("guests", 2);
    blocks = model_option("blocks", 1);
    places = model_option("places", 2);
    kinds = model_set("kinds", kind_names, MAKE_EMPTY + 1);
    starts = model_set("starts", start_names, STARTS);
}

#endif
