/*
 * The ring of entries, commits, checkpoints, pages in place, and what comes
 * after a flush that failed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_LOG_RING_H
#define MODEL_LOG_RING_H

#include "log-space.h"

/* -- The ring -- */

static bool ring_has_room(void)
{
    int reserve = defect == NO_RESERVE ? 0 : 1;         /* [ring-reserve] */

    return m.ring.used + reserve < slots ||
           defect == NO_ROOM;                           /* [ring-room] */
}

/* The slot of the oldest entry whose pages may not be stable in place */
static int ring_tail(void)
{
    int safe = defect == TAIL_AT_APPLIED ? m.ring.applied : m.ring.safe;

    /* [tail-stable] */
    for (int i = m.ring.used; i > 0; i--) {
        if (m.ring.sequence - i + 1 > safe) {
            return slot_at(m.ring.head - i);
        }
    }
    return m.ring.head;
}

/* What the newest entry's Tail has passed may be written over. */
static void ring_release(void)
{
    while (m.ring.used && slot_at(m.ring.head - m.ring.used) != m.ring.tail) {
        m.ring.used--;
    }
}

/* Fill in an entry for the head but its pages. */
static void ring_entry(Entry *entry)
{
    int last = m.end < m.size ? m.end : m.size;

    *entry = (Entry) {
        .log = m.ring.log, .sequence = m.ring.sequence + 1,
        .tail = ring_tail(), .flushed = m.stable_size, .last = last,
    };
    if (defect == FLUSHED_OFFSET_NOW) {         /* [flushed-length] */
        entry->flushed = m.size;
    }
    if (defect == LAST_OFFSET_SHORT && last) {  /* [last-length] */
        entry->last = last - 1;
    }
}

/* @entry has been written at the head. */
static void ring_advance(const Entry *entry)
{
    m.ring.tail = entry->tail;
    m.ring.sequence = entry->sequence;
    m.ring.head = slot_at(m.ring.head + 1);
    if (m.ring.used < slots) {
        m.ring.used++;
    } else {
        assert(defect);
    }
    if (defect == RELEASED_EARLY) {     /* [ring-reuse] */
        ring_release();
    }
}

static void ring_write(const Entry *entry)
{
    slot_write(&m.disk, m.ring.head, entry);
    ring_advance(entry);
}

static bool page_is_to_apply(const Page *page)
{
    return page->in_log && !page->put;
}

static bool ring_may_apply(void)
{
    for (int b = 0; b < blocks; b++) {
        Page *page = &m.pages[b];

        if (page_is_to_apply(page) && !m.commit_lock && m.open &&
            !m.broken) {
            return true;
        }
        if (defect == APPLIED_EARLY && page->written &&    /* [log-first] */
            m.disk.page[b].now != 1 << page->committing) {
            return true;
        }
    }
    return false;
}

/* One is written in place. */
static void page_apply(int b)
{
    value_write(&m.disk.page[b], m.pages[b].logged);
    m.pages[b].put = true;
}

/* Pages up to the newest entry are in place, if that one is stable. */
static void ring_applied(void)
{
    if (!m.writing || (m.early && defect == EARLY_COUNTS_APPLIED)) {
        m.ring.applied = m.ring.sequence;
    }
}

/* Write all pages in place that are stable in the log. */
static void ring_apply(void)
{
    for (int b = 0; b < blocks; b++) {
        Page *page = &m.pages[b];

        if (defect == APPLIED_EARLY && page->written) {
            value_write(&m.disk.page[b], page->committing);
        } else if (page_is_to_apply(page)) {
            page_apply(b);
        }
    }
    ring_applied();
    if (defect == SAFE_AT_APPLY) {      /* [tail-stable] */
        m.ring.safe = m.ring.applied;
    }
}

/* -- Checkpoints: apply, flush, an empty entry, flush -- */

static void checkpoint_begin(void)
{
    ring_apply();
    if (defect == CHECKPOINT_UNAPPLIED) {       /* [checkpoint-applied] */
        m.ring.safe = m.ring.applied;
    } else {
        file_flush_begin();
    }
}

static void checkpoint_write(void)
{
    Entry entry;

    file_flush_end();
    ring_entry(&entry);
    ring_write(&entry);
    if (defect != CHECKPOINT_UNFLUSHED) {       /* [checkpoint-stable] */
        file_flush_begin();
    }
}

static void checkpoint_end(void)
{
    file_flush_end();
    ring_release();
}

/* -- Commits -- */

/* A guest's flush: what has ended must be stable in the end. */
static void guest_flush_begin(void)
{
    for (int b = 0; b < blocks; b++) {
        for (int i = 0; i < sectors; i++) {
            cell_flush(&m.guest[b][i], flying_to(b, i));
        }
    }
}

enum { DONE, FAILED, LOST };

static void guest_flush_end(int how)
{
    for (int b = 0; b < BLOCKS; b++) {
        for (int i = 0; i < SECTORS; i++) {
            Cell *cell = &m.guest[b][i];

            if (how == DONE) {
                cell_flushed(cell);
            } else if (how == LOST) {
                cell_lose(cell);
            } else {
                cell->sure = cell->since = 0;
            }
        }
    }
}

/* The file's length is set once more where that may have been lost. */
static void length_assure(void)
{
    if (m.unsure) {
        value_write(&m.disk.length, m.size);
        m.unsure = false;
    }
}

/* Take the dirty pages; what an entry beside its data has stays with it. */
static void pages_take(void)
{
    for (int b = 0; b < blocks; b++) {
        Page *page = &m.pages[b];

        if (page->dirty) {
            page->taken = true;
            page->committing = page->now;
            page->dirty = false;
        }
    }
}

/* A commit takes all that is complete. */
static void commit_take(void)
{
    m.taken = m.changes;
    m.barrier = m.order && defect != NO_BARRIER;        /* [data-barrier] */
    m.order = false;
    pages_take();
    for (int p = 0; p < places; p++) {
        if (m.places[p].state == FREED) {
            m.places[p].state = COMMITTING;
        }
    }
}

static bool has_dirty_pages(void)
{
    for (int b = 0; b < blocks; b++) {
        if (m.pages[b].dirty) {
            return true;
        }
    }
    return false;
}

/* Begin the commit's own work. */
static void commit_start(void)
{
    commit_take();
    if (m.barrier) {
        file_flush_begin();
    }
}

/*
 * What an entry beside its data has is stable before other pages are taken:
 * each has but one version that is written.
 */
static void commit_begin(int committer)
{
    length_assure();
    m.commit_lock = true;
    m.committer = committer;
    if (m.early && (has_dirty_pages() || m.order) &&
        defect != EARLY_UNSETTLED) {    /* [early-settled] */
        m.settling = true;
        file_flush_begin();
    } else {
        commit_start();
    }
}

static bool commit_has_pages(void)
{
    for (int b = 0; b < blocks; b++) {
        if (m.pages[b].taken && !m.pages[b].written) {
            return true;
        }
    }
    return false;
}

/* Whether entries before must leave the ring first, which are stable */
static bool commit_needs_checkpoint(void)
{
    return !m.settling && commit_has_pages() &&
           (!ring_has_room() || m.ring.sequence < m.ring.given_up);
}

static void commit_barrier_end(void)
{
    if (m.barrier) {
        m.barrier = false;
        file_flush_end();
    }
}

/* An entry of the commit gets page @b. */
static void entry_add(Entry *entry, int b)
{
    Page *page = &m.pages[b];

    if (defect == NEWEST_WRITTEN) {     /* [taken-version] */
        page->committing = page->now;
    }
    entry->page[b] = page->committing + 1;
    page->written = true;
}

/* The next entry of the commit, of as many pages as it may have */
static void commit_entry(Entry *entry)
{
    ring_entry(entry);
    for (int b = 0, n = 0; b < blocks && n < per_entry; b++) {
        Page *page = &m.pages[b];

        if (page->taken && !page->written) {
            entry_add(entry, b);
            n++;
        }
    }
}

/* Write what the ring has room for, and begin to flush. */
static void commit_write(void)
{
    Entry entry;

    commit_barrier_end();
    while (commit_has_pages() && ring_has_room()) {
        commit_entry(&entry);
        ring_write(&entry);
        m.writing = true;
    }
    if (defect != FLUSH_LEFT_OUT) {     /* [flush-stable] */
        file_flush_begin();
    }
}

/* What has been freed may be used; not so after a failure. */
static void commit_places(bool stable)
{
    for (int p = 0; p < places; p++) {
        if (m.places[p].state == COMMITTING) {
            m.places[p].state = stable ? COMMITTED : FREED;
            if (stable) {
                place_forget(&m.places[p]);
            }
        }
    }
}

static void commit_end(int how)
{
    /* [freed-wait] */
    commit_places(how == DONE || defect == FAILED_COMMIT_FREES);
    if (how == DONE) {
        /* [change-generation] */
        m.changes -= defect == GENERATION_TOO_NEW ? m.changes : m.taken;
    }
    m.taken = 0;
    if (m.committer) {
        guest_flush_end(how);
        request_end(m.committer - 1);
        m.committer = 0;
        m.commit_lock = false;
    }
}

/* What the log has got is stable. */
static void commit_stable(void)
{
    for (int b = 0; b < blocks; b++) {
        Page *page = &m.pages[b];

        if (page->written) {
            page->logged = page->committing;
            page->in_log = true;
            page->put = page->taken = page->written = false;
            page->committing = 0;
        }
    }
    m.early = false;
    if (m.writing) {
        m.writing = false;
        ring_release();
    }
}

static void commit_settled(void)
{
    m.settling = false;
    file_flush_end();
    commit_stable();
    commit_start();
}

/* If that is all, so is the commit. */
static void commit_flushed(void)
{
    file_flush_end();
    commit_stable();
    if (!commit_has_pages()) {
        commit_end(DONE);
    }
}

static bool commit_may_fail(void)
{
    return m.fails && commit_has_pages() && ring_has_room() && m.committer;
}

/* What has not become stable is dirty. */
static void commit_pages_again(void)
{
    for (int b = 0; b < blocks; b++) {
        Page *page = &m.pages[b];

        if (page->taken) {
            page->dirty |= defect != FAILED_PAGES_CLEAN;    /* [failed-dirty] */
            page->taken = page->written = false;
            page->committing = 0;
        }
    }
}

/*
 * The write of the first entry fails, which may be there all the same.  Its
 * pages are dirty again, and so is what a newer version is to be written over.
 */
static void commit_fail(void)
{
    Entry entry;

    commit_barrier_end();
    commit_entry(&entry);
    slot_write(&m.disk, m.ring.head, &entry);
    m.fails--;
    m.ring.given_up = m.ring.sequence + 1;
    if (defect == RETRIED_FURTHER_ON) {         /* [entry-retried] */
        m.ring.sequence++;
    }
    commit_pages_again();
    commit_end(FAILED);
}

static bool flush_may_fail(void)
{
    return m.flush_fails && m.flushing && m.committer;
}

/* Whether something relies on data that was written before */
static bool data_is_named(void)
{
    bool named = m.order;

    for (int a = 0; a < ALLOCS; a++) {
        named |= m.allocs[a].refs && m.allocs[a].barrier;
    }
    return named;
}

/*
 * The flush of the commit fails, the one before its entries or the one after.
 * If there was nothing but data, that is the guest's to deal with; else nothing
 * is written any more.
 */
static void commit_flush_fail(void)
{
    bool writing = m.writing &&                         /* [early-latched] */
                   !(m.early && defect == EARLY_NOT_LATCHED);
    bool metadata = m.barrier || writing || m.ring.applied != m.ring.safe;

    m.flush_fails--;
    if (m.barrier) {
        m.order = true;
        m.barrier = false;
    }
    m.broken = (metadata || data_is_named()) && defect != NEVER_LATCHED;
    m.writing = m.early = m.settling = false;   /* [flush-latched] */
    file_flush_fail();
    commit_pages_again();
    commit_end(LOST);
}

/* -- Resuming after a failed flush -- */

static bool may_resume(void)
{
    return m.broken && !m.commit_lock && all_are_idle() &&
           (!m.order || defect == RESUME_LOST_DATA);    /* [resume-data] */
}

/* Entries that may not be stable are taken back, by destroying them. */
static void ring_rewind(void)
{
    const Entry none = { 0 };

    if (m.ring.given_up < m.ring.sequence) {
        m.ring.given_up = m.ring.sequence;
    }
    while (m.ring.sequence > m.ring.stable) {
        m.ring.head = slot_at(m.ring.head - 1);
        m.ring.sequence--;
        m.ring.used--;
        slot_write(&m.disk, m.ring.head, &none);
    }
}

static void resume_begin(void)
{
    m.commit_lock = m.frozen = true;
    length_assure();
    if (defect != RESUME_TRUSTS_LOG) {          /* [resume-log] */
        ring_rewind();
    }
    file_flush_begin();
}

static void resume_end(void)
{
    file_flush_end();
    m.broken = m.frozen = m.commit_lock = false;
}

/* Whether a guest's flush may begin, and has something to do */
static bool may_flush(int guest, bool changes)
{
    return is_kind(FLUSH) && guest_is_next(guest) && !m.commit_lock &&
           (m.changes > 0) == changes;
}

static void flush_begin(int guest)
{
    m.requests[guest] = (Request) { .active = true, .kind = FLUSH };
    m.ops--;
    guest_flush_begin();
    commit_begin(guest + 1);
}

/* A flush to which nothing is left to do */
static void flush_nothing(void)
{
    m.ops--;
    guest_flush_begin();
    guest_flush_end(DONE);
}

#endif
