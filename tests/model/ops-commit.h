/*
 * Commits of a child, pages in place, and the emptying of a child that has been
 * merged into its parent.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_OPS_COMMIT_H
#define MODEL_OPS_COMMIT_H

#include "ops.h"

/* The page that is the @n-th of a commit: child_order() */
static int commit_page(int n)
{
    static const uint8_t child[] = { BITS, BITMAP_ENTRY, ENTRIES };
    static const uint8_t bat_first[] = { BITMAP_ENTRY, ENTRIES, BITS };
    static const uint8_t rising[] = { BITS, ENTRIES, BITMAP_ENTRY };

    return defect == BAT_FIRST ? bat_first[n] :  /* [bits-first] */
           defect == BAT_RISING ? rising[n] : child[n];
}

/* Take all dirty pages, and whether data must be stable before them. */
static void commit_take(void)
{
    m.barrier = m.order && defect != NO_BARRIER;  /* [bits-barrier] */
    m.order = false;
    for (int i = 0; i < PAGES; i++) {
        Page *page = &m.pages[i];

        page->taken = page->dirty;
        page->committing = page->dirty ? page->now : 0;
        page->dirty = false;
    }
    for (int i = 0; i < PLACES; i++) {
        if (m.places[i].state == FREED) {
            m.places[i].state = COMMITTING;
        }
    }
    m.written = 0;
}

/* A guest's flush: what has ended must be stable in the end. */
static void guest_flush_begin(void)
{
    for (int b = 0; b < BLOCKS; b++) {
        for (int i = 0; i < SECTORS; i++) {
            cell_flush(&m.guest[b][i], flying_to(b, i));
        }
    }
}

static void guest_flush_end(void)
{
    for (int b = 0; b < BLOCKS; b++) {
        for (int i = 0; i < SECTORS; i++) {
            cell_flushed(&m.guest[b][i]);
        }
    }
}

/* The flush of the file begins. */
static void file_flush_begin(void)
{
    for (int p = 0; p < PLACES; p++) {
        for (int i = 0; i < SECTORS; i++) {
            cell_flush(&m.places[p].sector[i], flying_in(p, i));
        }
    }
    for (int i = 0; i < PAGES; i++) {
        m.pages[i].flushing = m.pages[i].is_put;
    }
}

/* It ends: pages that are stable in place need no log any more. */
static void file_flush_end(void)
{
    for (int p = 0; p < PLACES; p++) {
        for (int i = 0; i < SECTORS; i++) {
            cell_flushed(&m.places[p].sector[i]);
        }
    }
    for (int i = 0; i < PAGES; i++) {
        Page *page = &m.pages[i];

        if (page->flushing) {
            page->place = page->put;
            page->is_put = page->flushing = false;
            page->put = 0;
            page->in_log = page->place != page->logged;
        }
    }
}

/* Whatever a place has is garbage to who gets it next. */
static void place_forget(Place *place)
{
    for (int i = 0; i < SECTORS; i++) {
        Values may = OLD | place->sector[i].since;

        place->sector[i] = (Cell) { .may = may, .now = OLD };
    }
}

/* The commit's entries are stable, and with them what has been freed. */
static void commit_stable(void)
{
    for (int i = 0; i < PAGES; i++) {
        Page *page = &m.pages[i];

        if (page->taken) {
            page->logged = page->committing;
            page->in_log = true;
            page->taken = false;
            page->committing = 0;
        }
    }
    for (int i = 0; i < PLACES; i++) {
        if (m.places[i].state == COMMITTING) {
            m.places[i].state = COMMITTED;
            place_forget(&m.places[i]);
        }
    }
    m.written = 0;
}

/*
 * All entries of the commit are in the log, but not stable.  A cut leaves the
 * first of them, as many as you like.
 */
static void commit_write(void)
{
    m.barrier = false;
    m.written = PAGES;
    file_flush_begin();
}

/* A commit begins, with the flush that it needs before its entries. */
static void commit_begin(void)
{
    m.commit_lock = true;
    commit_take();
    if (m.barrier) {
        file_flush_begin();
    } else {
        commit_write();
    }
}

static void commit_barrier_end(void)
{
    file_flush_end();
    commit_write();
}

static void commit_end(void)
{
    file_flush_end();
    commit_stable();
    m.commit_lock = false;
}

/* The version of a page that can be written in place now, or NULL */
static const uint16_t *page_to_apply(const Page *page)
{
    const uint16_t *version = NULL;

    if (page->in_log && !m.commit_lock) {
        version = &page->logged;
    /* [log-first] */
    } else if (defect == APPLIED_EARLY && page->taken && m.written) {
        version = &page->committing;
    }
    return version && !page->is_put && *version != page->place ? version : NULL;
}

static bool may_apply(void)
{
    for (int i = 0; i < PAGES; i++) {
        if (page_to_apply(&m.pages[i])) {
            return true;
        }
    }
    return false;
}

/* As vhdx_ring_apply(): write all pages in place that the log has. */
static void apply(void)
{
    for (int i = 0; i < PAGES; i++) {
        const uint16_t *version = page_to_apply(&m.pages[i]);

        if (version) {
            m.pages[i].put = *version;
            m.pages[i].is_put = true;
        }
    }
}

/* -- make_empty -- */

static bool others_are_idle(int guest)
{
    for (int g = 0; g < guests; g++) {
        if (g != guest && m.requests[g].active) {
            return false;
        }
    }
    return true;
}

/* Copy all that the child has to its parent, which may keep it in a cache. */
static void merge_copy(void)
{
    for (int b = 0; b < blocks; b++) {
        for (int i = 0; i < SECTORS; i++) {
            Values value = read_now(b, i);

            m.parent[b][i].may |= value;
            m.parent[b][i].now = value;
        }
    }
}

static void parent_flush(void)
{
    if (defect == PARENT_NOT_FLUSHED) {  /* [empty-stable] */
        return;
    }
    for (int b = 0; b < blocks; b++) {
        for (int i = 0; i < SECTORS; i++) {
            m.parent[b][i].may = m.parent[b][i].now;
        }
    }
}

/* No block is here any more. */
static void make_empty(void)
{
    for (int b = 0; b < blocks; b++) {
        int e = bat_get(b);

        if (is_present(e)) {
            m.places[entry_place(e)].state = FREED;
        }
        bat_set(b, NOT_PRESENT, 0);
    }
}

#endif
