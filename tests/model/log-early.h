/*
 * An entry that is written beside its data: where a flush is sure to follow a
 * write to a new block, whose place is known to read as zeros.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_LOG_EARLY_H
#define MODEL_LOG_EARLY_H

#include "log-ring.h"

static int dirty_pages(void)
{
    int count = 0;

    for (int b = 0; b < blocks; b++) {
        count += m.pages[b].dirty;
    }
    return count;
}

/* Whether the block that a request of @guest writes to may be published now */
static bool may_early(int guest)
{
    Request *r = &m.requests[guest];
    Alloc *a = r->alloc ? &m.allocs[r->alloc - 1] : NULL;

    if (!is_kind(EARLY) || !a || !r->writing || a->phase != READY ||
        a->detached || m.commit_lock || m.early || m.unsure || m.broken) {
        return false;
    }
    return (!a->barrier || defect == EARLY_OLD) &&      /* [early-zero] */
           (!m.order || defect == EARLY_BARRIER) &&     /* [early-ordered] */
           (ring_has_room() || defect == EARLY_NO_ROOM) &&  /* [ring-room] */
           m.ring.sequence >= m.ring.given_up &&
           dirty_pages() + !m.pages[a->block].dirty <= per_entry;
}

/* The block is published in memory and in the entry in one step. */
static void early_begin(int guest)
{
    Alloc *a = &m.allocs[m.requests[guest].alloc - 1];
    int now = m.pages[a->block].now;
    Entry entry;

    alloc_publish(a);
    a->early = true;
    pages_take();
    commit_entry(&entry);
    if (defect == EARLY_OLD || defect == EARLY_BARRIER) {
        m.order = false;
    }
    if (defect == EARLY_UNPUBLISHED) {          /* [early-published] */
        m.pages[a->block].now = now;
        a->phase = READY;
    }
    slot_write(&m.disk, m.ring.head, &entry);
    m.disk.slot[m.ring.head].flying = true;
    m.early_write = true;
    m.commit_lock = defect != EARLY_UNLOCKED;   /* [early-locked] */
}

/* Its write has ended. */
static void early_end(bool failed)
{
    SlotCell *slot = &m.disk.slot[m.ring.head];
    Entry entry = slot->written[slot->writes - 1];

    slot->flying = m.early_write = m.commit_lock = false;
    if (failed) {
        m.fails--;
        m.ring.given_up = m.ring.sequence + 1;
        if (defect == EARLY_FAILED_CLEAN) {     /* [failed-dirty] */
            for (int b = 0; b < blocks; b++) {
                m.pages[b].taken = m.pages[b].written = false;
                m.pages[b].committing = 0;
            }
        }
        commit_pages_again();
        return;
    }
    ring_advance(&entry);
    m.writing = m.early = true;
    if (defect == EARLY_STABLE) {               /* [early-settled] */
        commit_stable();
    }
    if (defect == EARLY_FREES) {                /* [freed-wait] */
        for (int p = 0; p < places; p++) {
            if (m.places[p].state == FREED) {
                m.places[p].state = COMMITTED;
                place_forget(&m.places[p]);
            }
        }
    }
}

#endif
